"""Connections between ends of a sealed tunnel: docs/PROTOCOL.md 7.6. For strangers see test_strangers.py.

a and b are ends and know each other; a hub knows b and c. Visitors are connections whose other side the test plays.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from typing import ClassVar

import pytest

from tests.edge.pairs import open_descriptors, until
from tests.links.peers import running
from tests.links.sealed import LOOPBACK, End, Impostor, Visitor, called, joined, listening, passes
from tests.proto.ends import association, public
from tunneld.config import Endpoint
from tunneld.edge import clock, tcp
from tunneld.edge.tcp import UNSENT_LIMIT, TcpLink
from tunneld.links import streams
from tunneld.links.dial import Dialler
from tunneld.links.tcp import HELD
from tunneld.proto.const import MAX_QUEUED_PACKETS
from tunneld.proto.controlchannel import Goodbye
from tunneld.proto.controlchannel import encode as control
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.framing import encode
from tunneld.proto.payload import KindPayload
from tunneld.proto.session import Session

# --- one connection


async def test_two_ends_with_nothing_to_say_rest_and_tell_what_happens_at_once():
    async with joined() as (a, b):
        looks, poll_event = 0, a.tunnel.poll_event

        def counted():
            nonlocal looks
            looks += 1
            return poll_event()

        await until(lambda: a.now("b").startswith("up"))
        a.tunnel.poll_event = counted
        await asyncio.sleep(1.0)
        assert looks < 0.5 / streams.TICK
        b.say_goodbye()
        await until(lambda: a.states["b"].state.value != "up", 0.5)


@pytest.mark.parametrize("times", [5, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_an_end_comes_back_after_every_end_of_its_connection_and_nothing_is_left_behind(times):
    async with joined() as (a, b):
        descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
        for number in range(times):
            (link,) = b.pump._ports
            if number % 2:
                link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            b.pump.end(link, LinkDown("so that it comes again"))
            b.clock.ahead += streams.HELD
            await until(lambda link=link: b.up("a") and link not in b.pump._ports and a.up("b") and a.ports == 1)
        await passes(a, b)
        await until(lambda: b.now("a").startswith("up"))
        await until(lambda: (open_descriptors(), len(asyncio.all_tasks())) == (descriptors, tasks))


async def test_the_delay_doubles_and_begins_anew_after_a_connection_that_held():
    at = free()
    b, a = End("b", {"a": (at,)}), None
    delays = Delays(b)
    async with running(b.run()):
        await until(lambda: len(delays.look()) == 4)
        for delay, step in zip(delays.look(), (0.2, 0.4, 0.8, 1.6), strict=True):
            assert max(0.2, step / 2) - 0.051 <= delay <= step + 0.051
        a = listening(at=at)
        async with running(a.run()):
            await until(lambda: b.up("a"))
            b.clock.ahead += HELD
        await until(lambda: len(delays.look()) == 5)
    assert delays.look()[-1] == 0.2


class Delays:
    """Those that the end b tells before its tries to connect."""

    def __init__(self, b: End) -> None:
        self._b = b
        self._seen: list[str] = []

    def look(self) -> list[float]:
        said = self._b.now("a")
        if "trying again in" in said and self._seen[-1:] != [said]:
            self._seen.append(said)
        return [float(re.findall(r"again in ([\d.]+) s", said)[0]) for said in self._seen]


async def test_a_packet_ends_the_delay(monkeypatch):
    monkeypatch.setattr(streams, "PATIENCE", 0.3)
    monkeypatch.setattr(streams, "Backoff", lambda random: Forever())
    at = free()
    b = End("b", {"a": (at,)})
    async with running(b.run()):
        await until(lambda: "trying again" in b.now("a"))
        began = clock.now()
        b.send("a")
        with tcp.listen(at) as server:
            (await called(server)).sock.close()
            assert clock.now() - began > 0.2, "not for every packet at once"


class Forever:
    """So that only a packet can be the cause of another try."""

    def delay(self) -> float:
        return 1000.0

    def reset(self) -> None: ...


# --- goodbye


@pytest.mark.parametrize("leaver", ["a", "b"])
async def test_after_a_goodbye_nobody_connects_until_there_is_a_packet(leaver):
    async with joined() as (a, b):
        gone, left = (a, b) if leaver == "a" else (b, a)
        await passes(left, gone, leaver)
        gone.say_goodbye()
        await until(lambda: left.now(leaver) == "down: peer shut down")
        await until(lambda: a.ports == b.ports == 0)
        if leaver == "b":
            return
        await asyncio.sleep(0.5)
        assert (b.now("a"), a.ports) == ("down: peer shut down", 0)
        b.send("a")
        await until(lambda: b.up("a"))


async def test_after_a_goodbye_the_keepalive_connects():
    async with joined(keepalive=25) as (a, b):
        a.say_goodbye()
        await until(lambda: b.now("a") == "down: peer shut down")
        await asyncio.sleep(3 * streams.TICK)
        assert a.ports == 0
        b.clock.ahead += 25
        await until(lambda: b.up("a"))


async def test_who_says_goodbye_and_stays_is_closed():
    a, b = listening(), Impostor("b", "a")
    async with running(a.run()):
        with await Visitor.come(a.at) as peer:
            session = await b.join(peer)
            await until(lambda: a.up("b"))
            await say_goodbye(peer, session)
            await peer.over()
            await until(lambda: a.now("b") == "down: peer shut down")


@pytest.mark.usefixtures("short")
async def test_a_peer_that_came_back_after_its_goodbye_is_called_when_it_is_lost():
    """Both can connect; b plays a server that never answers beside. The goodbye is of the past by then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        a, b = End("a", {"b": (Endpoint(*server.getsockname()),)}, listen=LOOPBACK), Impostor("b", "a")
        async with running(a.run()):
            await closed_by_itself(server)
            with await Visitor.come(a.at) as peer:
                await say_goodbye(peer, await b.join(peer))
                await peer.over()
            with await Visitor.come(a.at) as peer:
                await b.join(peer)
                await until(lambda: a.up("b"))
                await asyncio.sleep(5 * streams.TICK)
                with pytest.raises(BlockingIOError):
                    server.accept()
            await closed_by_itself(server)


async def say_goodbye(peer: Visitor, session: Session) -> None:
    goodbye = KindPayload(max_packet=1400, max_plaintext=1400, ethernet=False).control(control([Goodbye()]))
    await peer.send(encode(session.seal_batch([goodbye], 0.0)))


async def closed_by_itself(server: socket.socket) -> None:
    """Wait for a connection, and until the end that opened it gives it up."""
    with await called(server) as visitor:
        await visitor.over()


# --- two connections


class Noted(Dialler):
    """Notes in `opened` the ports that were connected to."""

    opened: ClassVar[set[int]] = set()

    async def connect(self) -> TcpLink:
        link = await super().connect()
        self.opened.add(link.remote[1])
        return link


async def test_when_both_ends_connect_one_connection_stays_and_it_is_that_of_the_smaller_key(monkeypatch):
    """Each end begins while the other's connection is at some point of its handshake."""
    monkeypatch.setattr(streams, "Dialler", Noted)
    source, before, crossed = random.Random(5), open_descriptors(), 0
    for seed in range(12):
        at = {"a": free(), "b": free()}
        ends = [End(one, {other: (at[other],)}, listen=at[one], seed=seed) for one, other in ("ab", "ba")]
        late, early = source.sample(ends, 2)
        Noted.opened.clear()
        async with running(early.run()):
            for _ in range(source.randrange(20)):
                await asyncio.sleep(0)
            async with running(late.run()):
                link = await the_one_connection(ends)
                crossed += len(Noted.opened) == 2
                assert len(Noted.opened) == 1 or link.opened_by_us
                await passes(*ends)
                await passes(*ends[::-1], "a")
    assert crossed > 2, "this shows nothing"
    await until(lambda: open_descriptors() == before)


async def test_when_the_connection_of_two_that_connect_is_lost_they_have_one_again():
    at = {"a": free(), "b": free()}
    ends = [End(one, {other: (at[other],)}, listen=at[one]) for one, other in ("ab", "ba")]
    async with running(*(end.run() for end in ends)):
        for number in range(4):
            link = await the_one_connection(ends)
            ends[number % 2].pump.end(
                next(iter(ends[number % 2].pump._ports)), LinkDown("so that both connect again")
            )
            await until(lambda link=link: link.fileno() < 0)
        await the_one_connection(ends)
        await passes(*ends)


async def the_one_connection(ends: list[End]) -> TcpLink:
    """The connection between a and b, as the end with the smaller key has it, when there is no other any more."""
    smaller, greater = sorted(ends, key=lambda end: public(end.name))

    def alone() -> bool:
        ours, theirs = ([(link.local, link.remote) for link in end.pump._ports] for end in (smaller, greater))
        return len(ours) == 1 and theirs == [ours[0][::-1]] and smaller.up(greater.name) and greater.up(smaller.name)

    await until(alone)
    return next(iter(smaller.pump._ports))


def free() -> Endpoint:
    """An endpoint that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Endpoint(*server.getsockname())


# --- a peer that does not read

GAP = 0.005  # seconds between two batches that are offered
BATCH = 48  # packets of 1,400 bytes: 108 Mbit/s to each peer


async def offer(hub: End, seconds: float, *peers: str) -> float:
    """Offer packets to these peers at a steady rate; by how many seconds the loop was late at most."""
    late, next_at, end = 0.0, clock.now(), clock.now() + seconds
    while next_at < end:
        await asyncio.sleep(max(next_at - clock.now(), 0.0))
        late = max(late, clock.now() - next_at)
        next_at = max(next_at + GAP, clock.now())
        for peer in peers:
            hub.send(peer, BATCH, 1400)
    return late


# After 10 s the kernel gives such a connection up (TCP_USER_TIMEOUT).
@pytest.mark.parametrize("seconds", [0.6, pytest.param(6.0, marks=pytest.mark.long)])
async def test_a_peer_that_does_not_read_costs_the_others_nothing_and_us_no_memory(seconds):
    hub, stuck = End("a", {"b": (), "c": ()}, listen=LOOPBACK), Impostor("c", "a")
    reader = End("b", {"a": (hub.at,)})
    async with running(hub.run(), reader.run()):
        with await Visitor.come(hub.at) as visitor:
            session = await stuck.join(visitor)
            await until(lambda: hub.up("b") and hub.up("c"))
            await offer(hub, seconds, "b")
            alone = await arrived(reader)
            late = await offer(hub, seconds, "b", "c")
            beside = await arrived(reader) - alone
            assert beside >= 0.9 * alone
            assert late < 0.1
            link = association(hub.tunnel, "c").link
            assert 0 < link._unsent_bytes <= UNSENT_LIMIT
            assert len(association(hub.tunnel, "c")._staged) == MAX_QUEUED_PACKETS
            assert hub.pump.drops()[Reason.QUEUE_FULL] > 0
            assert hub.up("c")
            # What it reads at last has no gap, so nothing was dropped that had been sealed.
            left = MAX_QUEUED_PACKETS
            while left > 0 or link.blocked:
                opened = session.open_batch_untrusted([await visitor.message()], 0.0)
                assert not opened.refused
                left -= any(len(plaintext) > 1400 for plaintext in opened.plaintexts)


async def arrived(reader: End) -> int:
    """Packets that arrived, when no more do."""
    count = -1
    while count < reader.received:
        count = reader.received
        await asyncio.sleep(0.05)
    return count
