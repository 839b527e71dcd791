"""Single questions to rtnetlink(7), in the network namespace of the thread that opened the socket.

Not by pyroute2, whose import costs more than all of a verb that asks one thing, and which is asynchronous.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST = 1
NLMSG_ERROR = 2

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length with these four bytes, type
_ERROR = struct.Struct("=i")
_ANSWER_MAX = 65_536


def open_socket(groups: int = 0) -> socket.socket:
    """A socket to ask by, or, with a mask of multicast `groups` (RTMGRP_*), to be told by. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.bind((0, groups))
    return sock


def ask(sock: socket.socket, kind: int, body: bytes) -> memoryview:
    """The body of the one message that answers `kind` (RTM_GET*). Raises OSError with the kernel's errno.

    The kernel answers before it returns from the question, so this does not wait.
    """
    sock.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST, 1, 0) + body)
    answer = memoryview(sock.recv(_ANSWER_MAX))
    rest = answer[_HEADER.size :]
    if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
        code = -_ERROR.unpack_from(rest)[0]
        raise OSError(code, os.strerror(code))
    return rest


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute as a question carries it, padded."""
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, kind) + value).ljust(_aligned(length), b"\0")


def walk(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes of an answer, nested ones as they stand."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
