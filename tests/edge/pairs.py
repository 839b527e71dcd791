"""Two ends of a link on the loopback, and bounded waits. No policy, nothing of the daemon's."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

from tunneld.config import Endpoint
from tunneld.edge import address, tcp, udp
from tunneld.edge.tcp import TcpLink
from tunneld.edge.udp import UdpLink
from tunneld.proto.source import FixedSource


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `condition()` is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def readable(descriptor: int, seconds: float = 5.0) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def borrowed(link: TcpLink) -> socket.socket:
    """The socket of the link under another descriptor: to read and set its options. Close it."""
    return socket.socket(fileno=os.dup(link.fileno()))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def tcp_links(host: str = "127.0.0.1") -> AsyncIterator[tuple[TcpLink, TcpLink]]:
    """The end that connected, the end that accepted."""
    with closing(tcp.listen(Endpoint(host, 0))) as listener:
        connected = await tcp.connect(address.normalise(listener.getsockname()))
        accepted = await tcp.accept(listener)
    with closing(connected), closing(accepted):
        yield connected, accepted


@asynccontextmanager
async def udp_links(host: str = "127.0.0.1") -> AsyncIterator[tuple[UdpLink, UdpLink]]:
    sources = FixedSource(), FixedSource()
    one, other = (UdpLink(udp.open_bound(Endpoint(host, 0)), source) for source in sources)
    sources[0].address, sources[1].address = other.local, one.local
    with closing(one), closing(other):
        yield one, other


@asynccontextmanager
async def link_and_socket(receive_buffer: int = 0) -> AsyncIterator[tuple[TcpLink, socket.socket]]:
    """A TcpLink and, as its peer, a bare blocking socket that does what the test wants."""
    with closing(tcp.listen(Endpoint("127.0.0.1", 0))) as listener, socket.socket() as peer:
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer.connect(listener.getsockname())
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with closing(await tcp.accept(listener)) as link:
            yield link, peer


def receive(link: TcpLink | UdpLink, count: int) -> list[bytes]:
    """`count` messages, copied, with a bound on the wait for each batch."""
    messages: list[bytes] = []
    while len(messages) < count:
        assert link.more or readable(link.fileno()), f"{len(messages)} of {count} messages arrived"
        messages += map(bytes, link.recv_batch(0.0))
    return messages
