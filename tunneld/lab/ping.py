"""ICMP echo, v4 and v6, from inside a host: needs no ping on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from tunneld.edge import clock
from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.host import Host

ICMPV6_FILTER = 1
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}


@dataclass(frozen=True, slots=True)
class Pinged:
    """`times` are the round trips in seconds of the answered requests, in the order in which they were sent."""

    sent: int
    times: tuple[float, ...]

    @property
    def lost(self) -> int:
        return self.sent - len(self.times)


async def ping(
    host: Host, address: str, *, count: int = 3, interval: float = 0.05, timeout: float = 1.0, size: int = 56
) -> Pinged:
    """`count` echo requests with `size` bytes of data, each waited for at most `timeout` seconds.

    One that the host cannot send (no route) is lost as well. Raises OSError for a socket that cannot be made.
    """
    times = []
    family = sockets.family(address)
    with _socket(host, family) as sock:
        identifier = int.from_bytes(os.urandom(2), "big")
        for sequence in range(count):
            if sequence:
                await asyncio.sleep(interval)
            request = _request(family, identifier, sequence, size)
            began = clock.now()
            with contextlib.suppress(OSError):  # TimeoutError is one
                sock.sendto(request, (address, 0))
                async with asyncio.timeout(timeout):
                    await _reply(sock, family, request)
                times.append(clock.now() - began)
    return Pinged(count, tuple(times))


async def wait_reachable(host: Host, address: str, timeout: float = 5.0) -> None:
    """Ping until the first answer. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            if (await ping(host, address, count=1, timeout=0.1)).times:
                return
            await asyncio.sleep(0.01)


def _socket(host: Host, family: socket.AddressFamily) -> socket.socket:
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    sock = host.call(lambda: socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol))
    if family == socket.AF_INET6:
        # A bit per type, set for those to keep away: a raw v6 socket else sees every neighbour solicitation.
        wanted = _REPLY[family]
        masks = [0xFFFFFFFF & ~(1 << wanted % 32) if word == wanted // 32 else 0xFFFFFFFF for word in range(8)]
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("8I", *masks))
    return sock


def _request(family: socket.AddressFamily, identifier: int, sequence: int, size: int) -> bytes:
    data = bytes(number % 256 for number in range(size))
    header = _ECHO.pack(_REQUEST[family], 0, 0, identifier, sequence)
    # The kernel fills in the checksum of ICMPv6, which covers the addresses.
    checksum = internet_checksum(header + data) if family == socket.AF_INET else 0
    return _ECHO.pack(_REQUEST[family], 0, checksum, identifier, sequence) + data


async def _reply(sock: socket.socket, family: socket.AddressFamily, request: bytes) -> None:
    while True:
        await readable(sock.fileno())
        packet = sock.recv(65535)
        message = packet[(packet[0] & 0x0F) * 4 :] if family == socket.AF_INET else packet
        if message[0] == _REPLY[family] and message[4:] == request[4:]:
            return


def internet_checksum(data: bytes) -> int:
    """RFC 1071, of data that holds zero where the checksum goes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) % 2:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
