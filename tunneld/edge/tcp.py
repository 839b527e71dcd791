"""TCP links: a connection that carries messages behind their length, and the sockets that make one."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address

from tunneld.config import Endpoint
from tunneld.edge import address as addresses
from tunneld.proto import framing
from tunneld.proto.const import MAX_PACKET_BYTES, PREFIX_BYTES
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.framing import Buffer, StreamDecoder
from tunneld.proto.source import Address

# What we keep unsent for a peer that does not read; beyond this, messages are refused.
UNSENT_LIMIT = 512 * 1024
# What one call reads.
TURN_BYTES = 64 * 1024
# What the kernel keeps unsent for us: enough to fill the path, little enough that a packet does not wait for
# seconds behind others (tcp(7), TCP_NOTSENT_LOWAT).
NOTSENT_LOWAT = 128 * 1024
# A half-open connection is found in 5 + 3 x 2 s when idle, and in 10 s when data is unacknowledged. Data that is sent
# between the probes starts the 10 s anew, so that who uses a link has to look at its `silence` too.
USER_TIMEOUT_MS = 10_000
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 2))
CONNECT_TIMEOUT = 10.0
# Connections that wait for us to accept them.
BACKLOG = 128
# TCP_NOTSENT_LOWAT of linux/tcp.h, which the socket module does not name.
TCP_NOTSENT_LOWAT = 25
# struct tcp_info of linux/tcp.h: tcpi_last_data_recv and tcpi_last_ack_recv, in milliseconds.
_LAST_RECEIVED = struct.Struct("=52xII")
assert sys.platform == "linux"


class TcpLink:
    """One established connection. `opener` is the address of the end that connected."""

    def __init__(self, sock: socket.socket, *, opened_by_us: bool) -> None:
        """Takes over `sock`. Raises LinkDown when it is no longer connected."""
        self._sock = sock
        self._decoder = StreamDecoder(TURN_BYTES + PREFIX_BYTES + MAX_PACKET_BYTES)
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._given_up = ""
        self.drops: Counter[Reason] = Counter()
        try:
            prepare(sock)
            self.local = addresses.normalise(sock.getsockname())
            self.remote = addresses.normalise(sock.getpeername())
        except OSError as error:
            sock.close()
            raise LinkDown(addresses.said(error)) from None
        self.opened_by_us = opened_by_us
        self.opener: Address = self.local if opened_by_us else self.remote

    def __str__(self) -> str:
        arrow = "→" if self.opened_by_us else "←"
        return f"tcp {addresses.text(self.local)} {arrow} {addresses.text(self.remote)}"

    @property
    def blocked(self) -> bool:
        return self._unsent_bytes > 0

    @property
    def ip(self) -> bytes:
        """The address of `remote`, 4 or 16 bytes."""
        return socket.inet_pton(addresses.family_of(self.remote), self.remote[0])

    @property
    def more(self) -> bool:
        """Whether whole messages wait in our memory."""
        return self._decoder.more

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def port(self) -> TcpLink:
        return self

    def recv_batches(self, now: float) -> Sequence[tuple[TcpLink, Sequence[memoryview]]]:
        messages = self.recv_batch(now)
        return ((self, messages),) if messages else ()

    def recv_batch(self, now: float) -> list[memoryview]:
        """The messages that wait, up to a bound; views valid until the next call. Raises LinkDown."""
        if self.more:
            return self._decoder.received_untrusted(0)
        try:
            count = self._sock.recv_into(self._decoder.space(), TURN_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise LinkDown(addresses.said(error)) from None
        if self._given_up:
            raise LinkDown(self._given_up)
        if count == 0:
            inside = " in the middle of a packet" if self._decoder.pending else ""
            raise LinkDown(f"the peer closed the connection{inside}")
        return self._decoder.received_untrusted(count)

    def send_batch(self, messages: Sequence[Buffer]) -> int:
        room = UNSENT_LIMIT - self._unsent_bytes
        taken = 0
        for message in messages:
            room -= PREFIX_BYTES + len(message)
            if room < 0:
                break
            taken += 1
        if taken:
            self._put(memoryview(framing.encode(messages[:taken])))
        return taken

    def _put(self, data: memoryview) -> None:
        sent = 0 if self._unsent else self._send([data])
        if sent < len(data):
            self._unsent.append(data[sent:])
            self._unsent_bytes += len(data) - sent

    def flush(self) -> None:
        while self._unsent:
            sent = self._send(list(self._unsent)[:64])
            if sent == 0:
                return
            self._unsent_bytes -= sent
            while sent:
                first = self._unsent.popleft()
                if sent < len(first):
                    self._unsent.appendleft(first[sent:])
                    break
                sent -= len(first)

    def _send(self, pieces: list[memoryview]) -> int:
        try:
            return self._sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise LinkDown(addresses.said(error)) from None

    def silence(self) -> float:
        """Seconds since anything came from the peer, be it an acknowledgement; keepalive bounds them."""
        data, acknowledgement = _LAST_RECEIVED.unpack(
            self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
        )
        return float(min(data, acknowledgement)) / 1000

    def give_up(self, reason: str) -> None:
        """Let the next read raise LinkDown(reason)."""
        self._given_up = reason
        with suppress(OSError):  # it went down by itself meanwhile, and a read will tell
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._sock.close()


def prepare(sock: socket.socket) -> None:
    """Non-blocking, no Nagle, and a half-open connection found within 15 s. Raises OSError."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def listen(endpoint: Endpoint) -> socket.socket:
    """A listening socket; on [::] it takes IPv4 too. Raises OSError (EADDRINUSE, EADDRNOTAVAIL, EACCES)."""
    sock = bind(endpoint, socket.SOCK_STREAM)
    try:
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def bind(endpoint: Endpoint, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket bound to a numeric endpoint. Raises OSError."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            both = ip_address(endpoint.host).is_unspecified
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        target = socket.getaddrinfo(endpoint.host, endpoint.port, family, kind, flags=socket.AI_NUMERICHOST)
        sock.bind(target[0][4])
    except OSError:
        sock.close()
        raise
    return sock


async def accept(listener: socket.socket) -> TcpLink:
    """The next connection. Raises LinkDown when it died at once, OSError when the system has no room for it."""
    sock, _ = await accept_raw(listener)
    return TcpLink(sock, opened_by_us=False)


async def accept_raw(listener: socket.socket) -> tuple[socket.socket, Address]:
    """The next connection and who opened it, non-blocking. Raises OSError when the system has no room for it."""
    loop = asyncio.get_running_loop()
    while True:
        # Wait even if somebody is there already: a flood of connections must not keep the loop to itself.
        await _ready(listener, loop.add_reader, loop.remove_reader)
        with suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            sock, remote = listener.accept()
            sock.setblocking(False)
            return sock, addresses.normalise(remote)


async def connect(target: Address, source: Address | None = None) -> TcpLink:
    """A connection to `target`, from `source` if given. Raises LinkDown, after 10 s at the latest."""
    try:
        sock = socket.socket(addresses.family_of(target), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # no descriptor is left, or the host has no IPv6
        raise LinkDown(f"{addresses.text(target)}: {addresses.said(error)}") from None
    try:
        prepare(sock)
        if source is not None:
            sock.bind(source)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await _connect(sock, target)
    except TimeoutError:
        sock.close()
        raise LinkDown(f"{addresses.text(target)} does not answer: host down, or TCP filtered") from None
    except OSError as error:
        sock.close()
        raise LinkDown(f"{addresses.text(target)}: {addresses.said(error)}") from None
    except BaseException:
        sock.close()
        raise
    return TcpLink(sock, opened_by_us=True)


async def _connect(sock: socket.socket, target: Address) -> None:
    # Not the loop's sock_connect: uvloop's forgets the scope of a link-local address.
    loop = asyncio.get_running_loop()
    error = sock.connect_ex(target)
    if error == errno.EINPROGRESS:
        await _ready(sock, loop.add_writer, loop.remove_writer)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


async def _ready(sock: socket.socket, watch: Callable[..., object], forget: Callable[[int], object]) -> None:
    """Wait until the loop's `watch` sees `sock` ready."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    watch(sock.fileno(), wake)
    try:
        await ready
    finally:
        forget(sock.fileno())
