"""The peers of a sealed tunnel over TCP: a connection each, opened by us, by them, or by both.

Theory of operation

- Connecting: while a peer has no connection, its endpoints are tried in their order, each name resolved anew; then a
  jittered delay of 0.2 to 30 s, which starts over after a connection that held, and which own packets cut short.
  After a goodbye of the peer we wait until there is something to send, or for the keepalive.
- Handshake: both ends read one message of the length that is due, and nothing more before it is good; only then the
  pump gets the connection. The other end has 5 s in all. Until they are over it gets no byte and no end by which to
  tell what it did wrong, whether that was its first message or what it sent behind an initiation.
- Accepting: strangers are few. When there are too many the oldest goes, of those first that showed no initiation; who
  floods us from a peer's address must not keep the peer out.
- Which of two connections to a peer carries its packets, the tunnel decides, and says which is to be closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import NoReturn

from tunneld.diagnosis import NO_ANSWER
from tunneld.edge import address as addresses
from tunneld.edge import tcp
from tunneld.edge.doorstep import first_message, leave
from tunneld.edge.tcp import TcpLink
from tunneld.links.dial import Dialler
from tunneld.links.roster import Roster
from tunneld.links.state import State
from tunneld.links.tcp import HELD, SILENCE, WATCH_PAUSE, give_up_on_silence
from tunneld.proto.backoff import Backoff
from tunneld.proto.errors import BadPacket, LinkDown
from tunneld.proto.events import Established, SaidGoodbye, Stalled, Superseded, Unconfirmed
from tunneld.proto.peer import Peer
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.wire import INITIATION, RESPONSE
from tunneld.pump import Pump

log = logging.getLogger("tunneld.tcp")

# From its arrival until a connection has keys, in seconds.
HANDSHAKE_TIMEOUT = 5.0
MOST_STRANGERS = 128
MOST_STRANGERS_OF_AN_ADDRESS = 8
# How often events are told at most and at least, in seconds; a flood of them is one by then.
TICK = 0.1
TELL_AT_LEAST = 2.0
# After this, in seconds, own packets end the delay before the next try to connect.
PATIENCE = 1.0
# How long to leave the listener alone when the system has no descriptor for another connection, and for how long not
# to say it again, in seconds.
ACCEPT_PAUSE = 0.5
QUIET = 60.0
UNCONFIRMED = "it never confirmed the handshake: preshared_key differs, or our answers do not reach it"


def network_of(host: str) -> str:
    """What strangers are counted by: an IPv4 address, or the /64 that one host is given."""
    address = ip_address(host)
    return host if address.version == 4 else str(ip_network((address, 64), strict=False))


class Stranger:
    """A connection from `host`, see network_of; `task` serves it, on `link` once its first message was good."""

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
        roster: Roster,
        *,
        bound: socket.socket | None,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Takes over `bound`, the listening socket."""
        self._pump = pump
        self._tunnel = tunnel
        self._roster = roster
        self._listener = bound
        self._clock = clock
        self._random = random
        self._strangers: dict[Stranger, None] = {}
        self._links: set[TcpLink] = set()
        self._left: set[str] = set()
        self._looked = asyncio.Event()
        self._why = {peer.name: "starting" for peer in tunnel.peers}

    async def run(self) -> NoReturn:
        """Serve until cancelled; then nothing of ours is open."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for peer in self._tunnel.peers:
                    if self._roster.configured[peer.name].endpoints:
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
        backoff, state = Backoff(self._random), self._roster.states[peer.name]
        dialler = Dialler(self._roster.configured[peer.name].endpoints, self._listener)
        while True:
            await self._until_needed(peer)
            if state.state is not State.CONNECTING:
                state.become(State.CONNECTING, self._why[peer.name])
            started = self._clock()
            try:
                await self._carry_ours(peer, await dialler.connect())
            except LinkDown as down:
                self._why[peer.name] = str(down)
            self._tell()
            if self._clock() - started >= HELD:
                backoff.reset()
            if peer.name in self._left:
                continue
            delay = backoff.delay()
            if peer.association is None:
                text = f"{self._why[peer.name]}; trying again in {delay:.1f} s"
                self._roster.diagnosis.trouble(peer.name, "no-connection", text)
            await self._pause(peer, delay)

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
            await self._looked.wait()

    async def _pause(self, peer: Peer, delay: float) -> None:
        """Wait `delay` seconds, but not much more than one if somebody has packets for the peer."""
        peer.wanted = False
        await asyncio.sleep(min(delay, PATIENCE))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay - PATIENCE):
                while not peer.wanted:
                    await self._looked.wait()

    async def _carry_ours(self, peer: Peer, link: TcpLink) -> NoReturn:
        """Make a session, and carry packets until the link goes down. Raises LinkDown."""
        try:
            await self._greet(peer, link)
        except BaseException:
            self._tunnel.close(link)
            link.close()
            raise
        await self._carry(link)

    async def _greet(self, peer: Peer, link: TcpLink) -> None:
        """Send the initiation, and take in the response. Raises LinkDown, at the end of the 5 s or of the stream."""
        silent = f"no answer from {addresses.text(link.remote)}"
        refused = ""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self._tunnel.open(peer, link, self._clock())
                # The pump has sent all that there was when its turn ended, so this is the initiation alone.
                while (out := self._tunnel.poll_transmit(self._clock())) is not None:
                    link.send_batch(out[1])
                message = await first_message(link.fileno(), RESPONSE.size)
                if message is not None:
                    try:
                        self._tunnel.receive_untrusted(link, [memoryview(message)], self._clock())
                    except BadPacket as bad:
                        refused = f"the answer from {addresses.text(link.remote)} is refused ({bad.reason.value})"
                    else:
                        return
                await asyncio.Event().wait()
        except TimeoutError:
            raise LinkDown(refused or f"{silent}: {NO_ANSWER}") from None
        except EOFError:
            raise LinkDown(f"{silent}, which closed the connection: {NO_ANSWER}") from None
        except OSError as error:
            raise LinkDown(f"{silent}, {addresses.said(error)}: {NO_ANSWER}") from None

    async def _carry(self, link: TcpLink) -> NoReturn:
        self._links.add(link)
        try:
            await self._pump.carry(link)
        finally:
            self._links.discard(link)

    # Accepting

    async def _accept_forever(self, listener: socket.socket) -> NoReturn:
        told = self._clock() - QUIET
        async with asyncio.TaskGroup() as connections:
            while True:
                try:
                    sock, remote = await tcp.accept_raw(listener)
                except OSError as error:
                    if self._clock() - told >= QUIET:
                        told = self._clock()
                        said = addresses.said(error)
                        log.warning("cannot accept a connection: %s; trying again every %.1f s", said, ACCEPT_PAUSE)
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                host = network_of(remote[0])
                going = self._make_room(host)
                stranger = Stranger(host)
                self._strangers[stranger] = None
                stranger.task = connections.create_task(self._serve(stranger, sock), name="serve")
                if going is not None:
                    # Until it is closed: else a flood is accepted faster than it goes.
                    await asyncio.wait([going])
        raise AssertionError("a task that never ends has ended")

    def _make_room(self, host: str) -> asyncio.Task[None] | None:
        """The task of a stranger, of `host` or of all, that has to go if one more would be too many."""
        for stranger in [stranger for stranger in self._strangers if self._proved(stranger)]:
            del self._strangers[stranger]
        alike = [stranger for stranger in self._strangers if stranger.host == host]
        if len(alike) >= MOST_STRANGERS_OF_AN_ADDRESS:
            return self._evict_one(alike)
        if len(self._strangers) >= MOST_STRANGERS:
            return self._evict_one(list(self._strangers))
        return None

    def _proved(self, stranger: Stranger) -> bool:
        return stranger.link is not None and self._tunnel.established(stranger.link)

    def _evict_one(self, strangers: list[Stranger]) -> asyncio.Task[None]:
        oldest = next((stranger for stranger in strangers if stranger.link is None), strangers[0])
        del self._strangers[oldest]
        assert oldest.task is not None
        oldest.task.cancel()
        return oldest.task

    async def _serve(self, stranger: Stranger, sock: socket.socket) -> None:
        """Let a stranger prove itself, and carry the packets of the peer that it turns out to be."""
        deadline = asyncio.get_running_loop().time() + HANDSHAKE_TIMEOUT
        try:
            peer = await self._admit_untrusted(stranger, sock, deadline)
            if peer is None or not await self._carry_theirs(peer, stranger, sock, deadline):
                await asyncio.sleep(deadline - asyncio.get_running_loop().time())
        finally:
            self._strangers.pop(stranger, None)
            stranger.task = None  # it holds the stranger: under a flood that ring would wait for the collector
            leave(sock)

    async def _admit_untrusted(self, stranger: Stranger, sock: socket.socket, deadline: float) -> Peer | None:
        """The peer that the stranger may be, whose link is set then; else None."""
        try:
            async with asyncio.timeout_at(deadline):
                message = await first_message(sock.fileno(), INITIATION.size)
            if message is None:
                return None
            # While ours is open, the link may end and the connection stands.
            link = TcpLink(sock.dup(), opened_by_us=False)
        except (OSError, EOFError, LinkDown):  # it is gone, or TimeoutError
            return None
        try:
            peer = self._tunnel.accept_untrusted(link, message, self._clock())
        except BadPacket:
            link.close()
            return None
        stranger.link = link
        return peer

    async def _carry_theirs(self, peer: Peer, stranger: Stranger, sock: socket.socket, deadline: float) -> bool:
        """Carry packets until the link goes down; whether it ever proved itself."""
        link, started = stranger.link, self._clock()
        assert link is not None
        judged = asyncio.get_running_loop().call_at(deadline, self._judge, link, sock)
        try:
            await self._carry(link)
        except LinkDown as down:
            proved = peer.latest_handshake is not None and peer.latest_handshake >= started
            if not proved:
                self._roster.diagnosis.take(Unconfirmed(peer.name, link, 1))
            self._tell_ended(peer, str(down) if proved else UNCONFIRMED)
            return proved
        finally:
            judged.cancel()

    def _judge(self, link: TcpLink, sock: socket.socket) -> None:
        """The 5 s of a connection that the peer opened are over."""
        if self._tunnel.established(link):
            sock.close()
        else:
            self._pump.end(link, LinkDown(UNCONFIRMED))

    def _tell_ended(self, peer: Peer, why: str) -> None:
        """A connection that the peer opened has ended."""
        self._tell()
        if peer.association is not None:
            return
        self._why[peer.name] = why
        if not self._roster.configured[peer.name].endpoints:
            if peer.name not in self._left:
                self._tell_waiting(peer, why)
            self._left.discard(peer.name)

    # Telling

    def _tell_waiting(self, peer: Peer, why: str = "") -> None:
        assert self._listener is not None
        where = addresses.text(addresses.normalise(self._listener.getsockname()))
        text = f"waiting on tcp {where}"
        self._roster.states[peer.name].become(State.LISTENING, f"{why}; {text}" if why else text)

    async def _tell_forever(self) -> NoReturn:
        while True:
            self._tell()
            self._roster.settle()
            # Whoever waits for this looks now, and waits for the next time.
            self._looked.set()
            self._looked.clear()
            await asyncio.sleep(TICK)
            await self._pump.turned(TELL_AT_LEAST)

    def _tell(self) -> None:
        while (event := self._tunnel.poll_event()) is not None:
            self._roster.diagnosis.take(event)
            if isinstance(event, Superseded) and isinstance(event.link, TcpLink):
                self._pump.end(event.link, LinkDown("another connection to the peer took its place"))
            elif isinstance(event, Stalled) and isinstance(event.link, TcpLink):
                self._pump.end(event.link, LinkDown("no answer to our handshake on a connection that stands"))
            elif isinstance(event, Established):
                self._left.discard(event.peer)
            elif isinstance(event, SaidGoodbye):
                self._left.add(event.peer)
                self._end_of(event.peer)

    def _end_of(self, name: str) -> None:
        """Close the connection of a peer that shut down, whether it does or not."""
        for peer in self._tunnel.peers:
            link = None if peer.association is None else peer.association.link
            if peer.name == name and isinstance(link, TcpLink):
                self._pump.end(link, LinkDown("the peer shut down"))

    async def _watch_forever(self) -> NoReturn:
        """Find the half-open connections that the kernel would find too late."""
        while True:
            longest = max((give_up_on_silence(link) for link in tuple(self._links)), default=0.0)
            await asyncio.sleep(max(SILENCE - longest, WATCH_PAUSE))
