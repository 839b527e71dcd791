"""The first message on a connection that a stranger may have opened: as little as possible is read of it."""

from __future__ import annotations

import asyncio
import socket

from tunneld.proto.framing import PREFIX


async def first_message(sock: socket.socket, size: int) -> bytes | None:
    """The message of `size` bytes that the connection begins with; None if it does not.

    Nothing is read beyond it, and after a wrong length nothing at all. Raises OSError, ConnectionError at its end.
    """
    (length,) = PREFIX.unpack(await _exactly(sock, PREFIX.size))
    return await _exactly(sock, size) if length == size else None


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < size:
        chunk = await loop.sock_recv(sock, size - len(received))
        if not chunk:
            raise ConnectionError("closed before its first message was whole")
        received += chunk
    return received
