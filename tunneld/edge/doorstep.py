"""The first message on a connection whose other end has proved nothing yet: as little as possible is read of it."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from tunneld.proto.framing import PREFIX

# What may wait unread is bounded by net.ipv4.tcp_rmem, 6 MiB or a few times that.
DISCARD_BYTES = 64 * 1024
DISCARDS = 32


async def first_message(descriptor: int, size: int) -> bytes | None:
    """The message of `size` bytes that the connection begins with; None if it begins with another length.

    Nothing is read beyond it, and after another length nothing at all. Raises EOFError at the end of the stream,
    OSError when the connection is gone.
    """
    (length,) = PREFIX.unpack(await _exactly(descriptor, PREFIX.size))
    return await _exactly(descriptor, size) if length == size else None


def leave(sock: socket.socket) -> None:
    """Close the connection, and let nobody tell by the way it ends how much of what was sent had been read.

    The kernel sends a reset where something is left unread, and an ordinary end where nothing is.
    """
    with suppress(OSError):  # nothing is left, or it is gone
        for _ in range(DISCARDS):
            # tcp(7): with MSG_TRUNC the bytes are dropped, not copied.
            if not sock.recv(DISCARD_BYTES, socket.MSG_TRUNC):
                break
    sock.close()


async def _exactly(descriptor: int, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = _read(descriptor, size - len(received))
        if chunk is None:
            await _readable(descriptor)
        elif chunk:
            received += chunk
        else:
            raise EOFError("closed before its first message was whole")
    return received


def _read(descriptor: int, size: int) -> bytes | None:
    """None while nothing is there. Apart, so that no exception and its frames are kept by who waits."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
