"""Peers under test with a pump and no device: what arrives is counted as `no-device`, which proves that it did."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tunneld.config import Endpoint
from tunneld.edge import clock, tcp, udp
from tunneld.links.state import PeerState
from tunneld.links.tcp import TcpPeer
from tunneld.links.udp import UdpPeer
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel
from tunneld.pump import Pump

MS_BIND = 0x1000


class Clock:
    """The real clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return clock.now() + self.ahead


class Subject:
    """One end: `state` and `pump` show what it does, `history` every state with its reason, `run` runs it."""

    def __init__(
        self, transport: str, *, listen: Endpoint | None = None, endpoints: tuple[Endpoint, ...] = (), seed: int = 0
    ) -> None:
        self.clock = Clock()
        self.history: list[tuple[str, str]] = []
        self.state = PeerState("berlin", self.clock, self._note)
        self.pump = Pump(
            (PlainTunnel if transport == "tcp" else PlainDatagramTunnel)(mode="tun", max_packet=1500), self.clock
        )
        self._socket = None if listen is None else (tcp.listen if transport == "tcp" else udp.open_bound)(listen)
        self.at = None if self._socket is None else Endpoint(*self._socket.getsockname()[:2])
        self.endpoints = endpoints
        self._transport = transport
        self._random = random.Random(seed).random

    async def run(self) -> None:
        common: dict[str, Any] = {"endpoints": self.endpoints, "clock": self.clock, "random": self._random}
        if self._transport == "tcp":
            await TcpPeer(self.pump, self.state, listener=self._socket, **common).run()
        else:
            await UdpPeer(self.pump, self.state, bound=self._socket, **common).run()

    @property
    def now(self) -> str:
        return f"{self.state.state.value}: {self.state.reason}"

    @property
    def link(self):
        """What carries the packets now; None while nothing does."""
        return next(iter(self.pump._ports), None)

    @property
    def received(self) -> int:
        """Messages that came over a link."""
        return self.pump.totals()["link_received_messages"]

    def _note(self) -> None:
        self.history.append((self.state.state.value, self.state.reason))


@asynccontextmanager
async def running(*ends: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """They run until the block ends."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(end) for end in ends]
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in started:
                task.cancel()


def nobody(kind: socket.SocketKind = socket.SOCK_STREAM) -> Endpoint:
    """An endpoint that refuses."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return Endpoint(*sock.getsockname())


def client(at: Endpoint, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((at.host, at.port), timeout=5, source_address=(source, 0))


@contextmanager
def names(path: Path) -> Iterator[Path]:
    """An /etc/hosts for this process alone; rewrite the file that it gives."""
    path.write_text("127.0.0.1 localhost\n")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(path), b"/etc/hosts", None, ctypes.c_ulong(MS_BIND), None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield path
    finally:
        assert libc.umount2(b"/etc/hosts", 2) == 0
