"""What an interface is: one RTM_GETLINK (rtnetlink(7)) in the calling thread's network namespace.

Not from /sys/class/net, which shows the namespace of its mount and not the caller's, and not by pyroute2, whose
import costs more than all of `tunneld device`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

RTM_GETLINK = 18
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
IFLA_IFNAME = 3
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_TUN_OWNER = 1
IFLA_TUN_GROUP = 2
IFLA_TUN_TYPE = 3
IFLA_TUN_PERSIST = 6
IFLA_TUN_MULTI_QUEUE = 7
MODES = {1: "tun", 2: "tap"}  # IFLA_TUN_TYPE

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length with these four bytes, type
_ANSWER_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Interface:
    """`kind` is the kernel's word ("veth", "bridge", "tun" for TUN and TAP both; "" for hardware and lo).

    The rest speaks of TUN/TAP only: `mode` is "tun", "tap", or None for anything else; `owner` and `group` are a uid
    and a gid, None where not set.
    """

    kind: str
    mode: str | None = None
    owner: int | None = None
    group: int | None = None
    persistent: bool = False
    multi_queue: bool = False


def lookup(name: str) -> Interface | None:
    """The interface called `name`; None when there is none. Raises OSError."""
    encoded = name.encode() + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(encoded), IFLA_IFNAME) + encoded
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute.ljust(_aligned(len(attribute)), b"\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body)
        answer = memoryview(sock.recv(_ANSWER_MAX))
    if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code == errno.ENODEV:
            return None
        raise OSError(code, os.strerror(code), name)
    return _parse(answer[_HEADER.size + _IFINFO.size :])


def _parse(attributes: memoryview) -> Interface:
    info = dict(_walk(dict(_walk(attributes)).get(IFLA_LINKINFO, memoryview(b""))))
    kind = bytes(info.get(IFLA_INFO_KIND, b"")).rstrip(b"\0").decode()
    if kind != "tun":
        return Interface(kind)
    data = {key: int.from_bytes(value, sys.byteorder) for key, value in _walk(info[IFLA_INFO_DATA])}
    return Interface(
        kind,
        mode=MODES[data[IFLA_TUN_TYPE]],
        owner=data.get(IFLA_TUN_OWNER),
        group=data.get(IFLA_TUN_GROUP),
        persistent=bool(data[IFLA_TUN_PERSIST]),
        multi_queue=bool(data[IFLA_TUN_MULTI_QUEUE]),
    )


def _walk(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
