"""What people send through a tunnel, from one host to another: a file, a stream of datagrams, a shell session.

Every transfer is bounded in time and verified; the figures are measured inside the hosts' own sockets.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import operator
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunneld.edge import clock
from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.host import Host
from tunneld.lab.sockets import Address
from tunneld.tasks import bare

CHUNK = 1 << 18
_NUMBER = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Transfer:
    """`sent` and `received` are SHA-256 of the two files; `seconds` end when the receiver holds the last byte."""

    size: int
    seconds: float
    sent: str
    received: str

    @property
    def intact(self) -> bool:
        return self.sent == self.received

    @property
    def rate(self) -> float:
        """Bits per second."""
        return self.size * 8 / self.seconds


def make_file(path: Path, size: int, seed: int = 0) -> None:
    """Write `size` bytes that no compression makes shorter; the same for the same seed. Raises OSError."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for at in range(0, size, CHUNK):
            file.write(source.randbytes(min(CHUNK, size - at)))


async def transfer(
    sender: Host,
    source: Path,
    receiver: Host,
    target: Path,
    address: Address,
    *,
    via: Address | None = None,
    timeout: float = 60.0,
    progress: Callable[[int], None] = lambda received: None,
) -> Transfer:
    """Send the file `source` over TCP to `address` on `receiver`, which writes `target`.

    `via` is where the sender connects to instead: a relay. `progress` is told how many bytes have arrived.

    Raises OSError, TimeoutError.
    """
    with sockets.tcp_listener(receiver, address) as listener:
        async with asyncio.timeout(timeout):
            began = clock.now()
            with await sockets.tcp_connect(sender, via or address) as sending:
                await readable(listener.fileno())
                receiving, _ = listener.accept()
                with receiving:
                    receiving.setblocking(False)
                    size = await _copy(sending, source, receiving, target, progress)
            seconds = clock.now() - began
    return Transfer(size, seconds, digest(source), digest(target))


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Blast:
    """Datagrams sent; different ones received; received again; overtaken by a later one; damaged, and lost so."""

    sent: int
    received: int
    duplicated: int
    reordered: int
    corrupted: int

    @property
    def lost(self) -> int:
        return self.sent - self.received


async def blast(
    sender: Host,
    receiver: Host,
    address: Address,
    *,
    via: Address | None = None,
    count: int,
    size: int = 1000,
    gap: float = 0.0,
    quiet: float = 0.3,
) -> Blast:
    """`count` numbered UDP datagrams of `size` bytes (at least 4), `gap` seconds apart, to `address` on `receiver`.

    `via` is where the sender sends to instead: a relay. It ends when nothing has arrived for `quiet` seconds after
    the last was sent. Raises OSError.
    """
    seen: list[int] = []
    corrupted = 0
    with sockets.udp(receiver, bind=address) as receiving, sockets.udp(sender, connect=via or address) as sending:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        for number in range(count):
            await _send_datagram(sending, _numbered(number, size))
            await asyncio.sleep(gap)
            corrupted += _collect(receiving, size, seen)
        while await _soon_readable(receiving, quiet):
            corrupted += _collect(receiving, size, seen)
    distinct = set(seen)
    return Blast(
        sent=count,
        received=len(distinct),
        duplicated=len(seen) - len(distinct),
        reordered=sum(map(operator.lt, seen, itertools.accumulate(seen, max))),
        corrupted=corrupted,
    )


async def _copy(
    sending: socket.socket, source: Path, receiving: socket.socket, target: Path, progress: Callable[[int], None]
) -> int:
    with bare(OSError):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_send_file(sending, source))
            received = tasks.create_task(_receive_file(receiving, target, progress))
    return received.result()


async def _send_file(sock: socket.socket, source: Path) -> None:
    loop = asyncio.get_running_loop()
    with source.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            await loop.sock_sendall(sock, piece)
    sock.shutdown(socket.SHUT_WR)


async def _receive_file(sock: socket.socket, target: Path, progress: Callable[[int], None]) -> int:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(CHUNK))
    received = 0
    with target.open("wb", buffering=0) as file:
        while size := await loop.sock_recv_into(sock, buffer):
            file.write(buffer[:size])
            received += size
            progress(received)
    return received


def _numbered(number: int, size: int) -> bytes:
    return _NUMBER.pack(number) + bytes([number % 256]) * (size - _NUMBER.size)


async def _send_datagram(sock: socket.socket, datagram: bytes) -> None:
    while True:
        try:
            sock.send(datagram)
            return
        except BlockingIOError:
            await sockets.writable(sock)


async def _soon_readable(sock: socket.socket, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await readable(sock.fileno())
    except TimeoutError:
        return False
    return True


def _collect(sock: socket.socket, size: int, seen: list[int]) -> int:
    """Append the numbers of what waits in `sock` to `seen`; the number of datagrams that are not as sent."""
    corrupted = 0
    while True:
        try:
            datagram = sock.recv(65535)
        except BlockingIOError:
            return corrupted
        number = int.from_bytes(datagram[: _NUMBER.size], "big")
        if datagram == _numbered(number, size):
            seen.append(number)
        else:
            corrupted += 1
