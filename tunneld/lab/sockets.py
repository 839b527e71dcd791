"""Sockets inside hosts, and the few waits that both loops offer for any socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tunneld.lab.host import Host

Address = tuple[str, int]  # numeric host without brackets, port


def family(host: str) -> socket.AddressFamily:
    """Of a numeric address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def udp(host: Host, *, bind: Address | None = None, connect: Address | None = None) -> socket.socket:
    """A non-blocking UDP socket in `host`; at least one of `bind` and `connect` is given. Raises OSError."""
    return _open(host, socket.SOCK_DGRAM, bind, connect)


def tcp_listener(host: Host, bind: Address) -> socket.socket:
    """A non-blocking listening TCP socket in `host`. Raises OSError."""
    sock = _open(host, socket.SOCK_STREAM, bind, None)
    sock.listen()
    return sock


def tcp_connecting(host: Host, connect: Address) -> socket.socket:
    """A non-blocking TCP socket in `host` that has begun to connect. Raises OSError."""
    sock = _open(host, socket.SOCK_STREAM, None, connect)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def writable(sock: socket.socket) -> None:
    """Wait until `sock` can be written: for one that connects, until it is connected or has failed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())


async def tcp_connect(host: Host, connect: Address) -> socket.socket:
    """A connected, non-blocking TCP socket in `host`. Raises OSError."""
    sock = tcp_connecting(host, connect)
    try:
        await writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"connect to {connect[0]} port {connect[1]} from {host.name}")
    except BaseException:
        sock.close()
        raise
    return sock


def _open(host: Host, kind: socket.SocketKind, bind: Address | None, connect: Address | None) -> socket.socket:
    address = bind or connect
    assert address is not None
    sock = host.call(lambda: socket.socket(family(address[0]), kind | socket.SOCK_NONBLOCK))
    try:
        if bind is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(bind)
        if connect is not None:
            with contextlib.suppress(BlockingIOError):  # TCP: the answer comes when the socket gets writable
                sock.connect(connect)
    except BaseException:
        sock.close()
        raise
    return sock
