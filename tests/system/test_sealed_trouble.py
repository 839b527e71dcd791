"""A sealed tunnel that runs, and what then goes wrong: an end is killed, a NAT forgets, somebody repeats and damages.

left ── router, where a relay is, and a stranger ── right          as topology.routed has them, or left ── right
left t0 ══════════════════════════════════════════ t0 right
"""

from __future__ import annotations

import statistics
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE, NAME, PORT, start, status_when
from tests.system.flood import Flood
from tests.system.sealed import CIPHERS, Sealed
from tunneld.edge import clock
from tunneld.lab import network, sockets, topology
from tunneld.lab.capture import Capture
from tunneld.lab.daemon import Daemon
from tunneld.lab.impairment import Event, Impairment
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.topology import Routed
from tunneld.lab.traffic import blast, make_file, transfer
from tunneld.lab.udp_relay import UdpRelay
from tunneld.proto.profile import MessageType, tunneld_profile
from tunneld.proto.wire import LENGTHS

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

STRANGER = "192.0.2.66"
LOAD = [bytes(1000)]  # datagrams that nobody reads, half as many as the tunnel could carry and more
LOAD_RATE = 4000  # a second
LOAD_PORT = 7200
AGAIN = 2.0  # seconds from the start of a killed daemon until packets pass, in the middle of many times
AT_WORST = 10.0
UNKNOWN_ENDPOINT = 17.0  # seconds, when only the other end can begin: 10 + 5 of WireGuard's timers, and a start
FIRST = 6.0  # seconds until two ends that start at once have a session
OTHERS = 20  # datagrams of the tunnel itself, or those that found a queue full
WORDS = {word[:1] for word in tunneld_profile("udp", "tun", CIPHERS[0]).words.values()}
BAD = Impairment(jitter=0.002, loss=0.01, reorder=0.05, duplicate=0.05, corrupt=0.05)


def times(short: int, long: int, timeout: int = 240):
    """A short and a long form of "so many times"."""
    marks = [pytest.mark.long, pytest.mark.timeout(timeout)]
    return pytest.mark.parametrize("times", [short, pytest.param(long, marks=marks, id=f"{long}-long")])


@times(2, 20)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_traffic_passes_soon_after_an_end_was_killed_under_load(hosts, transport, times):
    daemons = list(await start(hosts, Sealed(transport)))
    took = []
    async with load(hosts):
        for number in range(times):
            side = number % 2
            await daemons[side].kill()
            assert (await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.1)).lost == 1
            began = clock.now()
            daemons[side] = restart(daemons[side])
            await wait_reachable(hosts.right, INSIDE["v4"][0], timeout=AT_WORST)
            took.append(clock.now() - began)
    assert len(took) < 20 or statistics.median(took) <= AGAIN, took
    await both_end_well(daemons)


@pytest.mark.long
async def test_an_end_that_cannot_begin_is_found_by_the_one_that_can(hosts):
    lines = Sealed().left(hosts).splitlines(keepends=True)
    left = Daemon.start(hosts.left, "".join(line for line in lines if "endpoint" not in line), name=NAME)
    await left.wait_ready()  # or the first initiation is lost, and the next is 5 s away
    right = Daemon.start(hosts.right, Sealed().right(hosts), name=NAME)
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    async with load(hosts):
        await left.kill()
        left = restart(left)
        await wait_reachable(hosts.right, INSIDE["v4"][0], timeout=UNKNOWN_ENDPOINT)
    await both_end_well([left, right])


@times(2, 20)
async def test_two_ends_that_start_at_once_have_a_session(hosts, times):
    daemons = list(await start(hosts, Sealed()))
    for _ in range(times):
        for daemon in daemons:
            await daemon.kill()
        daemons = [restart(daemon) for daemon in daemons]
        for daemon in daemons:
            await daemon.wait_ready()
        for host, target in ((hosts.left, INSIDE["v4"][1]), (hosts.right, INSIDE["v4"][0])):
            await wait_reachable(host, target, timeout=FIRST)
    await both_end_well(daemons)


@times(10, 100)
async def test_a_nat_that_forgets_costs_no_packet_and_no_connection(path, tmp_path, times):
    for _ in range(times):
        path.relay.forget()
        assert (await ping(path.hosts.right, INSIDE["v4"][0], count=1)).lost == 0
    make_file(tmp_path / "sent", 200_000 * times)
    forgotten = []

    def forget(received: int) -> None:
        if received // 200_000 > len(forgotten):
            forgotten.append(received)
            path.relay.forget()

    target = (INSIDE["v4"][0], 7000)
    moved = await transfer(
        path.hosts.right, tmp_path / "sent", path.hosts.left, tmp_path / "got", target, progress=forget
    )
    assert moved.intact
    assert len(forgotten) >= times / 2


async def test_a_peer_is_followed_from_ipv4_to_ipv6_and_back(path):
    if not network.HAS_IPV6:
        missing("this kernel has no IPv6")
    for target, source in ((path.hosts.left_v6, path.hosts.west_v6), (path.hosts.left_v4, path.hosts.west_v4)):
        path.relay.target = (target, PORT)
        path.relay.forget()
        assert (await ping(path.hosts.right, INSIDE["v4"][0])).lost == 0
        await status_when(path.left, lambda status, source=source: source in str(status["peers"][0]["link"]))


@times(300, 10_000)
async def test_repeated_messages_move_nothing_and_end_nothing(hosts, times):
    """All that right said since its start; then left is restarted, and knows no timestamps any more."""
    await network.give(hosts.right, "eth0", f"{STRANGER}/24")
    with Capture(hosts.left, "eth0") as wire:
        daemons = list(await start(hosts, Sealed()))
        recorded: dict[bytes, None] = {}
        for _ in range(2):
            for packet in wire.packets:
                if not packet.outgoing and packet.data[42:43] in WORDS:
                    recorded[packet.data[42:]] = None
            assert LENGTHS[MessageType.INITIATION] in map(len, recorded)
            before = (await daemons[0].wait_state("up"))["peers"][0]["link"]
            await repeat(hosts, list(recorded), times)
            assert (await daemons[0].status())["peers"][0]["link"] == before
            await daemons[0].kill()
            daemons[0] = restart(daemons[0])
            await wait_reachable(hosts.left, INSIDE["v4"][1])
    await both_end_well(daemons)


async def repeat(hosts, messages, times):
    """Send them to left again, from where right is not, while packets pass both ways."""
    with sockets.udp(hosts.right, bind=(STRANGER, PORT + 1), connect=(hosts.left_v4, PORT)) as stranger:
        for number in range(times):
            stranger.send(messages[number % len(messages)])
            if number % 50 == 0:
                assert (await ping(hosts.left, INSIDE["v4"][1], count=1)).lost == 0
                assert (await ping(hosts.right, INSIDE["v4"][0], count=1)).lost == 0


@times(2_000, 10_000)
async def test_on_a_bad_wire_every_packet_arrives_whole_and_once_or_not_at_all(path, tmp_path, times):
    path.relay.impair(BAD)
    before = path.relay.counts("to-target")
    sent = await blast(path.hosts.right, path.hosts.left, (INSIDE["v4"][0], 7000), count=times, gap=0.001)
    wire = path.relay.counts("to-target") - before
    assert (sent.corrupted, sent.duplicated) == (0, 0)
    assert wire[Event.SENT] > times / 2
    assert min(wire[event] for event in (Event.LOST, Event.CORRUPTED, Event.DUPLICATED, Event.REORDERED)) > 0
    whole = wire[Event.SENT] - wire[Event.LOST] - wire[Event.CORRUPTED]
    assert whole - OTHERS <= sent.received <= whole
    make_file(tmp_path / "sent", 100 * times)
    target = (INSIDE["v4"][0], 7001)
    assert (await transfer(path.hosts.right, tmp_path / "sent", path.hosts.left, tmp_path / "got", target)).intact
    drops = (await path.left.status())["drops"]
    assert drops["forged"] > 0
    assert drops["replayed"] > 0
    assert (await path.right.status())["peers"][0]["state"] == "up"


@dataclass
class Path:
    """Both daemons, and the relay through which right calls left."""

    hosts: Routed
    left: Daemon
    right: Daemon
    relay: UdpRelay


@pytest.fixture
async def path(lab):
    hosts = await topology.routed(lab)
    lines = Sealed().left(hosts).splitlines(keepends=True)
    with UdpRelay(hosts.router, (hosts.east_v4, PORT), (hosts.left_v4, PORT)) as relay:
        left = Daemon.start(hosts.left, "".join(line for line in lines if "endpoint" not in line), name=NAME)
        await left.wait_ready()
        right = Daemon.start(hosts.right, Sealed().right(hosts, f"{hosts.east_v4}:{PORT}"), name=NAME)
        await right.wait_ready()
        await wait_reachable(hosts.right, INSIDE["v4"][0])
        yield Path(hosts, left, right, relay)
        await both_end_well([left, right])


@asynccontextmanager
async def load(hosts):
    """Datagrams through the tunnel from right to left, whether somebody takes them or not."""
    address, target = reversed(INSIDE["v4"])
    async with Flood(hosts.right, address, (target, LOAD_PORT), LOAD, LOAD_RATE):
        yield


def restart(daemon: Daemon) -> Daemon:
    return Daemon.start(daemon.host, daemon.config.read_text(), name=NAME)


async def both_end_well(daemons):
    assert [await daemon.stop() for daemon in daemons] == [0, 0]
    assert "Traceback" not in "".join(daemon.log() for daemon in daemons)
