"""Peers of a sealed tunnel over UDP, on the loopback and without a device: a listens, b and c know where."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from tests.edge.pairs import open_descriptors, until
from tests.links.peers import Clock, running
from tests.proto.ends import end, ipv4, peer_of, public
from tunneld.config import Endpoint, PeerConfig
from tunneld.diagnosis import Diagnosis
from tunneld.edge import udp
from tunneld.keys import PublicKey
from tunneld.links.datagrams import DatagramPeers
from tunneld.links.roster import Roster
from tunneld.links.state import PeerState
from tunneld.proto.const import REKEY_TIMEOUT
from tunneld.proto.errors import LinkDown, Reason
from tunneld.pump import Pump

ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}


class End:
    """One end, called by a letter; `peers` gives the endpoints of each."""

    def __init__(self, name: str, peers: dict[str, tuple[Endpoint, ...]], *, listen: Endpoint | None = None) -> None:
        self.name = name
        self.clock = Clock()
        self.changes: list[str] = []
        self.states = {peer: PeerState(peer, self.clock, self._note) for peer in peers}
        self.tunnel = end(name, {peer: (f"{ADDRESSES[peer]}/32",) for peer in peers})
        self.pump = Pump(self.tunnel, self.clock)
        bound = None if listen is None else udp.open_bound(listen)
        self.at = None if bound is None else Endpoint(*bound.getsockname()[:2])
        self.peers = DatagramPeers(
            self.pump,
            self.tunnel,
            Roster(
                {peer: PeerConfig(peer, endpoints) for peer, endpoints in peers.items()},
                self.states,
                Diagnosis(
                    "t", self.states, ours=PublicKey(public(name)), settings="as in the tests", clock=self.clock
                ),
            ),
            bound=bound,
            clock=self.clock,
            random=random.Random(1).random,
        )

    def now(self, peer: str) -> str:
        return f"{self.states[peer].state.value}: {self.states[peer].reason}"

    def send(self, peer: str) -> None:
        self.tunnel.enqueue([ipv4(ADDRESSES[self.name], ADDRESSES[peer])], self.clock())
        self.pump.kick()

    def later(self, seconds: float) -> None:
        self.clock.ahead += seconds
        self.pump.kick()

    def link(self, peer: str) -> str:
        return str(peer_of(self.tunnel, peer).association.link)

    @property
    def received(self) -> int:
        """Packets that came for the device."""
        return self.pump.drops()[Reason.NO_DEVICE]

    def _note(self) -> None:
        self.changes += [self.now(peer) for peer in self.states]


@pytest.fixture
def a() -> End:
    return End("a", {"b": (), "c": ()}, listen=Endpoint("127.0.0.1", 0))


@pytest.fixture
def nowhere():
    """An endpoint where nobody listens, and nobody else can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.connect(("127.0.0.1", 9))  # so it hears that one alone, and others are refused
        yield Endpoint("127.0.0.1", port)


async def passes(one: End, other: End) -> None:
    before = other.received
    one.send(other.name)
    await until(lambda: other.received > before)


async def test_who_knows_an_endpoint_calls_without_being_asked_and_both_ways_are_open(a):
    b, c = (End(name, {"a": (a.at,)}) for name in "bc")
    async with running(a.peers.run()):
        await until(lambda: a.now("b") == f"listening: waiting on udp {a.at}")
        async with running(b.peers.run(), c.peers.run()):
            await until(lambda: a.now("b").startswith("up: session with 127.0.0.1:"))
            await until(lambda: b.now("a") == f"up: session with {a.at}" == c.now("a"))
            assert b.changes[0] == f"connecting: handshake initiation sent to {a.at}"
            for one, other in ((b, a), (c, a), (a, b), (a, c)):
                await passes(one, other)
            assert a.link("b") != a.link("c")


async def test_after_two_initiations_without_an_answer_the_next_address_has_its_turn(a, nowhere):
    b = End("b", {"a": (nowhere, a.at)})
    async with running(a.peers.run(), b.peers.run()):
        refused = f"connecting: port unreachable: nothing listens on UDP {nowhere} there"
        await until(lambda: b.now("a") == refused)
        b.later(REKEY_TIMEOUT + 1)
        await until(lambda: str(a.at) in b.link("a"))
        b.later(REKEY_TIMEOUT + 1)
        await until(lambda: b.now("a") == f"up: session with {a.at}")


async def test_a_name_that_nobody_knows_is_told_and_tried_again(monkeypatch, a):
    known: list[tuple[str, int]] = []

    async def resolve(endpoint: Endpoint) -> list[tuple[str, int]]:
        if not known:
            raise LinkDown(f"cannot resolve {endpoint.host}: Name or service not known")
        return known

    monkeypatch.setattr("tunneld.edge.address.resolve", resolve)
    b = End("b", {"a": (Endpoint("a.example", 1),)})
    async with running(a.peers.run(), b.peers.run()):
        await until(lambda: "cannot resolve a.example" in b.now("a") and "trying again in 0.2 s" in b.changes[0])
        known.append((a.at.host, a.at.port))
        await until(lambda: b.now("a").startswith("up"))


async def test_what_the_socket_cannot_reach_is_no_address(a):
    b = End("b", {"a": (Endpoint("::1", 5), a.at)}, listen=Endpoint("127.0.0.1", 0))
    async with running(a.peers.run(), b.peers.run()):
        await until(lambda: b.now("a").startswith("up"))
    lost = End("b", {"a": (Endpoint("::1", 5),)}, listen=Endpoint("127.0.0.1", 0))
    async with running(lost.peers.run()):
        await until(lambda: 'IPv6, but we listen on IPv4 only; write listen = "[::]:PORT"' in lost.now("a"))


async def test_a_socket_that_breaks_is_opened_anew_and_the_sessions_go_on(a):
    b = End("b", {"a": (a.at,)})
    async with running(a.peers.run(), b.peers.run()):
        await until(lambda: b.now("a").startswith("up") and a.now("b").startswith("up"))
        for broken, peer in ((a, "b"), (b, "a")):
            (port,) = broken.pump._ports
            handshake = peer_of(broken.tunnel, peer).latest_handshake
            broken.pump.end(port, LinkDown("the socket broke"))
            await until(lambda broken=broken: any("the socket broke" in change for change in broken.changes))
            await until(lambda broken=broken, peer=peer: broken.now(peer).startswith("up"))
            assert port not in broken.pump._ports
            assert peer_of(broken.tunnel, peer).latest_handshake == handshake
        await passes(b, a)
        await passes(a, b)


async def test_a_socket_that_served_for_long_is_missed_as_shortly_as_the_first(a):
    async with running(a.peers.run()):
        for _ in range(4):
            await until(lambda: len(a.pump._ports) == 1)
            (port,) = a.pump._ports
            a.later(10)
            a.pump.end(port, LinkDown("the socket broke"))
            await until(lambda: a.now("b").startswith("down"))
            assert a.now("b") == "down: the socket broke; trying again in 0.2 s"


async def test_after_a_goodbye_nobody_calls_until_there_is_something_to_say(a):
    b = End("b", {"a": (a.at,)})
    async with running(a.peers.run(), b.peers.run()):
        await until(lambda: b.now("a").startswith("up") and a.now("b").startswith("up"))
        a.tunnel.say_goodbye(a.clock())
        a.pump.kick()
        await until(lambda: b.now("a") == "down: peer shut down")
        sent = b.pump.totals()["link_sent_messages"]
        b.later(60)
        await asyncio.sleep(0)
        assert b.pump.totals()["link_sent_messages"] == sent
        b.send("a")
        await until(lambda: b.now("a").startswith("up"))
        await until(lambda: a.received > 0)


async def test_the_end_of_it_leaves_nothing_open(a):
    descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
    b = End("b", {"a": (a.at,)})
    async with running(a.peers.run(), b.peers.run()):
        await until(lambda: b.now("a").startswith("up"))
    assert len(asyncio.all_tasks()) == tasks
    assert open_descriptors() < descriptors
