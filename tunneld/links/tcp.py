"""The peer over TCP: connect, listen, or both; one connection at a time, and the next when it ends.

Theory of operation

- Connecting: whenever no connection stands, the endpoints are tried in their order, each name resolved anew,
  each address in turn; then a jittered delay of 0.2 to 30 s, which starts over after a connection that held.
- Listening only: whoever comes first is served; who comes later waits in the kernel's backlog until the
  connection ends, so a stranger cannot displace it.
- Both: a connection from any address but the endpoints' is closed and counted. The port is not compared: whoever
  connects has one of the moment. The stranger may be the peer at a new address, so the names are then resolved
  anew in the background, at most every 5 s: its next try is known. If both ends connected, the connection opened
  by the lower IP:port stays, which both ends decide alike; so that each knows the other by its address, we connect
  from the address that we listen on. If the peer opens a second connection, it has lost its first, which we replace.

A connection that stands cannot be told from a half-open one until the kernel gives up on it, or we do, within 15 s;
until then the rules above hold for it too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import NoReturn

from tunneld.config import Endpoint
from tunneld.edge import address as addresses
from tunneld.edge import tcp
from tunneld.edge.tcp import TcpLink
from tunneld.links.dial import Dialler
from tunneld.links.state import PeerState, State
from tunneld.log import Limited
from tunneld.proto.backoff import Backoff
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.plain import opener_rank
from tunneld.pump import Pump

log = logging.getLogger("tunneld.tcp")

# A connection that stood this long, in seconds, was no failure: the next delay is the first again.
HELD = 10.0
# How long the answers of the resolver are good enough against strangers, in seconds.
LEARN_PAUSE = 5.0
# How long to leave the listener alone when the system has no descriptor for another connection.
ACCEPT_PAUSE = 1.0
# A peer that is there answers a keepalive probe after 5 s of silence. This is more than the kernel takes by itself
# (11 s), and with the pause less than the 15 s in which a half-open connection is to be found.
SILENCE = 12.0
WATCH_PAUSE = 1.0
# How long a line of the log that a flood has held back may wait for its number, in seconds.
SETTLE_PAUSE = 2.0


class TcpPeer:
    """Keeps one connection to the peer in the pump. `random` gives floats in [0, 1) for the jitter."""

    def __init__(
        self,
        pump: Pump,
        state: PeerState,
        *,
        listener: socket.socket | None,
        endpoints: tuple[Endpoint, ...],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Takes over `listener`; at least one of it and `endpoints` is given."""
        self._pump = pump
        self._state = state
        self._listener = listener
        self._endpoints = endpoints
        self._dialler = Dialler(endpoints, listener)
        self._clock = clock
        self._backoff = Backoff(random)
        self._current: TcpLink | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._why = "starting"
        self._stranger = asyncio.Event()
        self._limited = Limited(log, per_second=1)

    async def run(self) -> NoReturn:
        """Serve until cancelled; then nothing of ours is open."""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._listener is not None and self._endpoints:
                    tasks.create_task(self._learn_forever(), name="learn")
                    tasks.create_task(self._accept_forever(self._listener), name="accept")
                elif self._listener is not None:
                    tasks.create_task(self._serve_forever(self._listener), name="serve")
                if self._endpoints:
                    tasks.create_task(self._connect_forever(), name="connect")
                tasks.create_task(self._watch_forever(), name="watch")
                tasks.create_task(self._settle_forever(), name="settle")
        finally:
            if self._listener is not None:
                self._listener.close()
        raise AssertionError("a task that never ends has ended")

    async def _connect_forever(self) -> NoReturn:
        while True:
            await self._idle.wait()
            self._state.become(State.CONNECTING, self._why)
            try:
                await self._carry(await self._dialler.connect())
            except LinkDown as down:
                self._why = str(down)
            delay = self._backoff.delay()
            if self._idle.is_set():
                self._state.become(State.CONNECTING, f"{self._why}; trying again in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _serve_forever(self, listener: socket.socket) -> NoReturn:
        """Listening only: one connection after the other."""
        waiting = f"waiting on tcp {_bound_to(listener)}"
        self._state.become(State.LISTENING, waiting)
        while True:
            await self._carry(await _accept(listener))
            self._state.become(State.LISTENING, f"{self._why}; {waiting}")

    async def _accept_forever(self, listener: socket.socket) -> NoReturn:
        """Listening beside connecting: only the peer, but at any time."""
        async with asyncio.TaskGroup() as connections:
            while True:
                link = await _accept(listener)
                if self._dialler.knows(link.remote[0]):
                    connections.create_task(self._carry_accepted(link), name="carry")
                else:
                    self._refuse(link)
        raise AssertionError("a task that never ends has ended")

    async def _carry_accepted(self, link: TcpLink) -> None:
        await self._carry(link)
        if self._idle.is_set():
            self._state.become(State.CONNECTING, self._why)

    def _refuse(self, link: TcpLink) -> None:
        link.close()
        self._pump.count(Reason.STRANGER)
        self._stranger.set()
        who = addresses.text(link.remote)
        self._limited.warning(self._clock(), "stranger", "refused a connection from %s: not the endpoint", who)

    async def _learn_forever(self) -> NoReturn:
        while True:
            await self._dialler.learn()
            await asyncio.sleep(LEARN_PAUSE)
            self._stranger.clear()
            await self._stranger.wait()

    async def _carry(self, link: TcpLink) -> None:
        """Carry packets over `link` until it goes down or another takes its place."""
        if self._current is not None and not _replaces(link, self._current):
            self._tell_closed(link, f"{self._current} stays")
            link.close()
            return
        if self._current is not None:
            self._pump.end(self._current, LinkDown("another connection to the peer took its place"))
        self._current = link
        self._idle.clear()
        started = self._clock()
        self._state.become(State.UP, f"connected, {link}", link=str(link))
        try:
            await self._pump.carry(link)
        except LinkDown as down:
            if self._current is link:
                self._why = str(down)
            else:
                self._tell_closed(link, down)
            if self._clock() - started >= HELD:
                self._backoff.reset()
        finally:
            if self._current is link:
                self._current = None
                self._idle.set()

    def _tell_closed(self, link: TcpLink, why: object) -> None:
        self._limited.log(logging.INFO, self._clock(), "closed", "closed %s: %s", link, why)

    async def _settle_forever(self) -> NoReturn:
        """Tell how much of the log a flood of connections was not given."""
        while True:
            await asyncio.sleep(SETTLE_PAUSE)
            self._limited.settle(self._clock())
            self._state.settle()

    async def _watch_forever(self) -> NoReturn:
        """Find the half-open connections that the kernel would find too late."""
        while True:
            silence = 0.0 if self._current is None else give_up_on_silence(self._current)
            await asyncio.sleep(max(SILENCE - silence, WATCH_PAUSE))


def give_up_on_silence(link: TcpLink) -> float:
    """For how many seconds nothing came; if they are too many the link ends."""
    silence = link.silence()
    if silence > SILENCE:
        link.give_up(f"nothing came from the peer for {SILENCE:.0f} s, not even a keepalive")
    return silence


async def _accept(listener: socket.socket) -> TcpLink:
    while True:
        try:
            return await tcp.accept(listener)
        except LinkDown:
            continue
        except OSError as error:
            log.warning("cannot accept a connection: %s; trying again in 1 s", addresses.said(error))
            await asyncio.sleep(ACCEPT_PAUSE)


def _bound_to(listener: socket.socket) -> str:
    return addresses.text(addresses.normalise(listener.getsockname()))


def _replaces(new: TcpLink, current: TcpLink) -> bool:
    if new.opened_by_us == current.opened_by_us:
        return True
    return opener_rank(new.opener) < opener_rank(current.opener)
