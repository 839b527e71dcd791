"""The peers of a sealed tunnel over TCP: a connection each, opened by us, by them, or by both.

Theory of operation

- Connecting: while a peer has no connection, its endpoints are tried in their order, each name resolved anew; then a
  jittered delay of 0.2 to 30 s, which starts over after a connection that held. After a goodbye of the peer we wait
  until there is something to send, or for the keepalive.
- Accepting: of a stranger the length of an initiation and that many bytes are read, and nothing more before it is
  proved. Whoever has not proved itself within 5 s of its arrival is closed, and gets no byte and no earlier end by
  which to tell what it did wrong. Strangers are few: the oldest goes when there are too many.
- Which of two connections to a peer carries its packets, the tunnel decides, and says which is to be closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from tunneld.config import PeerConfig
from tunneld.diagnosis import NO_ANSWER, Diagnosis
from tunneld.edge import address as addresses
from tunneld.edge import tcp
from tunneld.edge.doorstep import first_message
from tunneld.edge.tcp import TcpLink
from tunneld.links.dial import Dialler
from tunneld.links.state import PeerState, State
from tunneld.links.tcp import ACCEPT_PAUSE, HELD, SILENCE, WATCH_PAUSE
from tunneld.proto.backoff import Backoff
from tunneld.proto.errors import BadPacket, LinkDown
from tunneld.proto.events import SaidGoodbye, Stalled, Superseded
from tunneld.proto.peer import Peer
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.wire import INITIATION
from tunneld.pump import Pump

log = logging.getLogger("tunneld.tcp")

# From its arrival until a connection has keys, in seconds.
HANDSHAKE_TIMEOUT = 5.0
MOST_STRANGERS = 128
MOST_STRANGERS_OF_AN_ADDRESS = 8
# How often events are told, in seconds; a flood of them is one by then.
TICK = 0.1


class Stranger:
    """A connection that was accepted from `host`; `task` serves it, on `link` once its first message was good."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.link: TcpLink | None = None
        self.task: asyncio.Task[None] | None = None


class StreamPeers:
    """Keeps the connections of all peers in the pump."""

    def __init__(
        self,
        pump: Pump,
        tunnel: StreamTunnel,
        configured: Mapping[str, PeerConfig],
        states: Mapping[str, PeerState],
        diagnosis: Diagnosis,
        *,
        bound: socket.socket | None,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Takes over `bound`, the listening socket."""
        self._pump = pump
        self._tunnel = tunnel
        self._configured = configured
        self._states = states
        self._diagnosis = diagnosis
        self._listener = bound
        self._clock = clock
        self._random = random
        self._strangers: dict[Stranger, None] = {}
        self._links: set[TcpLink] = set()
        self._left: set[str] = set()

    async def run(self) -> NoReturn:
        """Serve until cancelled; then nothing of ours is open."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for peer in self._tunnel.peers:
                    if self._configured[peer.name].endpoints:
                        tasks.create_task(self._connect_forever(peer), name=f"connect {peer.name}")
                    else:
                        self._tell_waiting(peer)
                if self._listener is not None:
                    tasks.create_task(self._accept_forever(self._listener), name="accept")
                tasks.create_task(self._tell_forever(), name="tell")
                tasks.create_task(self._watch_forever(), name="watch")
        finally:
            if self._listener is not None:
                self._listener.close()
        raise AssertionError("a task that never ends has ended")

    # Connecting

    async def _connect_forever(self, peer: Peer) -> NoReturn:
        backoff, state = Backoff(self._random), self._states[peer.name]
        dialler = Dialler(self._configured[peer.name].endpoints, self._listener)
        why = "starting"
        while True:
            await self._until_needed(peer)
            if state.state is not State.CONNECTING:
                state.become(State.CONNECTING, why)
            started = self._clock()
            try:
                await self._carry_ours(peer, await dialler.connect())
            except LinkDown as down:
                why = str(down)
            self._tell()
            if self._clock() - started >= HELD:
                backoff.reset()
            if peer.name in self._left:
                continue
            delay = backoff.delay()
            if peer.association is None:
                state.become(State.CONNECTING, f"{why}; trying again in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _until_needed(self, peer: Peer) -> None:
        """Wait while the peer has a connection, and after its goodbye until we have something to say."""
        since = self._clock()
        peer.wanted = False
        while True:
            if peer.association is not None:
                since = self._clock()
            elif peer.name not in self._left or peer.wanted or 0 < peer.keepalive <= self._clock() - since:
                self._left.discard(peer.name)
                return
            await asyncio.sleep(TICK)

    async def _carry_ours(self, peer: Peer, link: TcpLink) -> NoReturn:
        """Begin the handshake, and carry packets until the link goes down. Raises LinkDown."""
        self._tunnel.open(peer, link, self._clock())
        text = f"no answer from {addresses.text(link.remote)}: {NO_ANSWER}"
        deadline = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self._end_unproved, link, text)
        try:
            await self._carry(link)
        finally:
            deadline.cancel()

    def _end_unproved(self, link: TcpLink, why: str) -> None:
        if not self._tunnel.established(link):
            self._pump.end(link, LinkDown(why))

    async def _carry(self, link: TcpLink) -> NoReturn:
        self._links.add(link)
        try:
            await self._pump.carry(link)
        finally:
            self._links.discard(link)

    # Accepting

    async def _accept_forever(self, listener: socket.socket) -> NoReturn:
        async with asyncio.TaskGroup() as connections:
            while True:
                try:
                    sock, remote = await tcp.accept_raw(listener)
                except OSError as error:
                    log.warning("cannot accept a connection: %s; trying again in 1 s", addresses.said(error))
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                self._make_room(remote[0])
                stranger = Stranger(remote[0])
                self._strangers[stranger] = None
                stranger.task = connections.create_task(self._serve(stranger, sock), name="serve")
        raise AssertionError("a task that never ends has ended")

    def _make_room(self, host: str) -> None:
        """Close the oldest stranger, of `host` or of all, if one more would be too many."""
        strangers = [stranger for stranger in self._strangers if not self._proved(stranger)]
        alike = [stranger for stranger in strangers if stranger.host == host]
        if len(alike) >= MOST_STRANGERS_OF_AN_ADDRESS:
            self._evict(alike[0])
        elif len(strangers) >= MOST_STRANGERS:
            self._evict(strangers[0])

    def _proved(self, stranger: Stranger) -> bool:
        return stranger.link is not None and self._tunnel.established(stranger.link)

    def _evict(self, stranger: Stranger) -> None:
        del self._strangers[stranger]
        if stranger.task is not None:
            stranger.task.cancel()

    async def _serve(self, stranger: Stranger, sock: socket.socket) -> None:
        """Let a stranger prove itself, and carry the packets of the peer that it turns out to be."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HANDSHAKE_TIMEOUT
        try:
            peer = await self._admit(stranger, sock, deadline)
            if peer is None or stranger.link is None:
                return
            unproved = loop.call_at(deadline, self._end_unproved, stranger.link, "it never confirmed the handshake")
            try:
                await self._carry(stranger.link)
            except LinkDown as down:
                self._tell_ended(peer, str(down))
            finally:
                unproved.cancel()
        finally:
            self._strangers.pop(stranger, None)
            sock.close()

    async def _admit(self, stranger: Stranger, sock: socket.socket, deadline: float) -> Peer | None:
        """The peer that the stranger may be, whose link is set then; else None, at the deadline."""
        with suppress(OSError, LinkDown):  # it is gone, or TimeoutError
            async with asyncio.timeout_at(deadline):
                message = await first_message(sock, INITIATION.size)
                peer = None if message is None else self._accepted_untrusted(stranger, sock, message)
                if peer is None:
                    await asyncio.Event().wait()
                return peer
        return None

    def _accepted_untrusted(self, stranger: Stranger, sock: socket.socket, message: bytes) -> Peer | None:
        """Raises LinkDown."""
        link = TcpLink(sock, opened_by_us=False)
        try:
            peer = self._tunnel.accept_untrusted(link, message, self._clock())
        except BadPacket:
            return None
        stranger.link = link
        return peer

    def _tell_ended(self, peer: Peer, why: str) -> None:
        """A connection that the peer opened has ended."""
        self._tell()
        if peer.association is None and not self._configured[peer.name].endpoints:
            self._tell_waiting(peer, "peer shut down" if peer.name in self._left else why)
        if not self._configured[peer.name].endpoints:
            self._left.discard(peer.name)

    # Telling

    def _tell_waiting(self, peer: Peer, why: str = "") -> None:
        assert self._listener is not None
        where = addresses.text(addresses.normalise(self._listener.getsockname()))
        text = f"waiting on tcp {where}"
        self._states[peer.name].become(State.LISTENING, f"{why}; {text}" if why else text)

    async def _tell_forever(self) -> NoReturn:
        while True:
            self._tell()
            for state in self._states.values():
                state.settle()
            await asyncio.sleep(TICK)

    def _tell(self) -> None:
        while (event := self._tunnel.poll_event()) is not None:
            self._diagnosis.take(event)
            if isinstance(event, Superseded) and isinstance(event.link, TcpLink):
                self._pump.end(event.link, LinkDown("another connection to the peer took its place"))
            elif isinstance(event, Stalled) and isinstance(event.link, TcpLink):
                self._pump.end(event.link, LinkDown("no answer to our handshake on a connection that stands"))
            elif isinstance(event, SaidGoodbye):
                self._left.add(event.peer)

    async def _watch_forever(self) -> NoReturn:
        """Find the half-open connections that the kernel would find too late."""
        while True:
            await asyncio.sleep(WATCH_PAUSE)
            for link in tuple(self._links):
                if link.silence() > SILENCE:
                    link.give_up(f"nothing came from the peer for {SILENCE:.0f} s, not even a keepalive")
