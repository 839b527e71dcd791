"""The sealed protocol over TCP between real daemons, and what the world does to its connections.

left eth0 ── eth0 right, or left ── router, where relays are ── right; right connects, and left too where it is said

When a trouble is over, traffic passes again within two seconds, and nobody had to help.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.conftest import INSIDE, NAME, PORT, complaints, start, status_when, toml
from tests.system.sealed import Sealed, known, write_keys
from tunneld.edge import clock
from tunneld.lab import network, sockets, topology
from tunneld.lab.daemon import Daemon
from tunneld.lab.host import Host
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.tcp_relay import TcpRelay
from tunneld.lab.topology import Lab
from tunneld.lab.traffic import blast, make_file, transfer

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

TCP = Sealed("tcp")
LEFT, RIGHT = INSIDE["v4"]
FOUND = 15.0  # seconds in which a half-open connection is found
AGAIN = 2.0  # seconds in which there is another
HANDSHAKE = 5.0  # seconds that a try may take, before the next


async def passes_again(hosts, seconds: float = AGAIN) -> None:
    """Packets of right, which connects, and after a goodbye does so for them."""
    await wait_reachable(hosts.right, LEFT, timeout=seconds)


async def relayed(lab, relay: TcpRelay, hosts) -> tuple[Daemon, Daemon]:
    """Both daemons; right connects by way of the relay."""
    left = Daemon.start(hosts.left, TCP.left(hosts), name=NAME)
    right = Daemon.start(hosts.right, TCP.right(hosts, f"{hosts.east_v4}:{PORT}"), name=NAME)
    await left.wait_ready()
    await right.wait_ready()
    await wait_reachable(hosts.left, RIGHT)
    return left, right


def established(host: Host) -> int:
    """TCP connections of the host with the port of the daemons at either end."""
    tables = host.call(lambda: [Path(f"/proc/thread-self/net/{table}").read_text() for table in ("tcp", "tcp6")])
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    ends = [{int(end.rpartition(":")[2], 16) for end in row[1:3]} for row in rows if row[3] == "01"]
    return sum(PORT in ports for ports in ends)


# --- the end of a connection


@pytest.mark.parametrize("how", ["reset", "finish"])
async def test_a_connection_that_is_ended_on_the_way_is_replaced(lab, how):
    hosts = await topology.routed(lab)
    with TcpRelay(hosts.router, (hosts.east_v4, PORT), (hosts.left_v4, PORT)) as relay:
        left, right = await relayed(lab, relay, hosts)
        for _ in range(3):
            getattr(relay, how)()
            await passes_again(hosts)
        assert relay.accepted == 4
        assert complaints(left.log() + right.log()) == []


@pytest.mark.long
@pytest.mark.parametrize("sending", [False, True], ids=["idle", "sending"])
async def test_a_half_open_connection_is_found_and_replaced(sending):
    """Three pairs of hosts at once, as one of them was seen to need a second try."""
    async with asyncio.TaskGroup() as tasks:
        pairs = [tasks.create_task(half_open_to_passing(sending)) for _ in range(3)]
    taken = sorted(pair.result() for pair in pairs)
    assert taken[1] <= AGAIN, taken
    assert taken[2] <= HANDSHAKE + AGAIN, taken


async def half_open_to_passing(sending: bool) -> float:
    """Seconds from the new connection, which must come in time, until packets pass."""
    async with Lab.open() as lab:
        hosts = await topology.routed(lab)
        with TcpRelay(hosts.router, (hosts.east_v4, PORT), (hosts.left_v4, PORT)) as relay:
            daemons = await relayed(lab, relay, hosts)
            relay.half_open()
            began = clock.now()
            if sending:
                # Late, between two keepalive probes: from then on the kernel would wait 10 s for this alone.
                await asyncio.sleep(9.0)
                assert (await ping(hosts.right, LEFT, count=1, timeout=0.1)).lost == 1
            async with asyncio.timeout(FOUND):
                while relay.accepted < 2:  # noqa: ASYNC110 - the relay has no event for it
                    await asyncio.sleep(0.02)
            connected = clock.now()
            assert connected - began <= FOUND
            try:
                await passes_again(hosts, 2 * (HANDSHAKE + AGAIN))
            except TimeoutError:
                pytest.fail("\n".join(daemon.log() for daemon in daemons))
            return clock.now() - connected


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
@pytest.mark.parametrize(
    ("end", "times"),
    [("kill", 1), ("stop", 1), pytest.param("kill", 20, marks=[pytest.mark.long, pytest.mark.timeout(200)])],
)
async def test_a_daemon_that_starts_again_is_found(hosts, side, end, times):
    """From the moment that it listens, or connects; what a start takes is the machine's affair."""
    daemons, seconds = list(await start(hosts, TCP)), []
    for _ in range(times):
        daemon = daemons[side]
        await getattr(daemon, end)()
        assert (await ping(hosts.left, RIGHT, count=1, timeout=0.1)).lost == 1
        daemons[side] = Daemon.start(daemon.host, daemon.config.read_text(), name=NAME)
        await daemons[side].wait_ready()
        began = clock.now()
        await passes_again(hosts, 5.0)
        seconds.append(clock.now() - began)
    assert statistics.median(seconds) <= AGAIN, seconds
    assert "Traceback" not in daemons[0].log() + daemons[1].log()


@pytest.mark.parametrize("leaver", ["left", "right"])
async def test_after_a_goodbye_the_other_end_says_so_and_waits_for_a_packet(hosts, leaver):
    left, right = await start(hosts, TCP)
    gone, other = (left, right) if leaver == "left" else (right, left)
    assert await gone.stop() == 0
    status = await other.wait_state("down")
    assert (status["reason"], status["peers"][0]["state"]) == ("peer shut down", "down")
    if leaver == "left":
        with sockets.tcp_listener(hosts.left, ("0.0.0.0", PORT)) as listener:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 1.5)
            await ping(hosts.right, LEFT, count=1, timeout=0.01)
            (await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), AGAIN))[0].close()
    Daemon.start(gone.host, gone.config.read_text(), name=NAME)
    await passes_again(hosts, 2 * AGAIN)


# --- both ends connect


async def test_when_both_connect_one_connection_stays_and_streams_inside_outlive_the_others(lab, tmp_path):
    hosts = await topology.routed(lab)
    make_file(tmp_path / "sent", 6_000_000)
    with (
        TcpRelay(hosts.router, (hosts.east_v4, PORT), (hosts.left_v4, PORT)) as east,
        TcpRelay(hosts.router, (hosts.west_v4, PORT), (hosts.right_v4, PORT)) as west,
    ):
        to_right = {"endpoint": f"{hosts.west_v4}:{PORT}"}
        left = Daemon.start(hosts.left, TCP.left(hosts, peer=to_right), name=NAME)
        listens = {"listen": f"[::]:{PORT}"}
        right = Daemon.start(hosts.right, TCP.right(hosts, f"{hosts.east_v4}:{PORT}", tunnel=listens), name=NAME)
        await left.wait_ready()
        await right.wait_ready()
        await wait_reachable(hosts.left, RIGHT)
        cuts = [4_500_000, 3_000_000, 1_500_000]

        def cut(received: int) -> None:
            if cuts and received >= cuts[-1]:
                cuts.pop()
                east.reset()
                west.reset()

        moved = await transfer(
            hosts.left, tmp_path / "sent", hosts.right, tmp_path / "got", (RIGHT, 7000), progress=cut, timeout=30
        )
        assert moved.intact
        assert cuts == []
        async with asyncio.timeout(5):
            while (established(hosts.left), established(hosts.right)) != (1, 1):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert east.accepted + west.accepted >= 4
        assert complaints(left.log() + right.log()) == []


# --- packets


async def test_packets_of_the_greatest_size_in_a_row_lose_no_record_and_no_connection(hosts, tmp_path):
    """Sixteen of them, which the device gives at once, are more than the link keeps unsent."""
    left, right = await start(hosts, Sealed("tcp", interface={"mtu": 65_000}))
    make_file(tmp_path / "sent", 30_000_000)
    moved = await transfer(hosts.left, tmp_path / "sent", hosts.right, tmp_path / "got", (RIGHT, 7000), timeout=20)
    assert moved.intact
    for daemon in (left, right):
        assert daemon.log().count(": up: ") == 1


async def test_a_member_of_a_hub_that_does_not_read_costs_the_others_nothing(hosts, lab):
    """left is the hub, right a member, and stuck another, which is stopped as a whole."""
    stuck = lab.host("stuck")
    await network.cable(hosts.left, "eth1", stuck, "eth0")
    await network.give(hosts.left, "eth1", "198.51.100.1/24")
    await network.give(stuck, "eth0", "198.51.100.2/24")
    inner = "10.9.0.3"
    member = {"name": "stuck", "public_key": known("stuck", "tap", 1)["public_key"], "allowed_ips": [f"{inner}/32"]}
    psk = {"preshared_key_file": f"{NAME}.psk"}
    hub = Daemon.start(hosts.left, TCP.left(hosts) + toml(peer=member | psk), name=NAME)
    right = Daemon.start(hosts.right, TCP.right(hosts), name=NAME)
    write_keys(stuck)
    address = {"addresses": [f"{inner}/24"]}
    third = Daemon.start(stuck, TCP.right(hosts, f"198.51.100.1:{PORT}", interface=address), name=NAME)
    for daemon in (hub, right, third):
        await daemon.wait_ready()
    for far in (RIGHT, inner):
        await wait_reachable(hosts.left, far)

    async def offer() -> int:
        moved = await blast(hosts.left, hosts.right, (RIGHT, 7000), count=400, size=1300, gap=GAP)
        return moved.received

    alone = await offer()
    third.child.signal(signal.SIGSTOP)
    try:
        await flood(hosts.left, inner, 5000, 0.0)
        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(offer())
            tasks.create_task(flood(hosts.left, inner, 400, GAP))
        assert (await hub.status())["drops"]["queue-full"] > 400, "it read all that: this shows nothing"
        assert beside.result() >= 0.9 * alone
    finally:
        third.child.signal(signal.SIGCONT)
    await wait_reachable(hosts.left, inner)
    assert hub.log().count("peer stuck: up: ") == 1


GAP = 0.001  # seconds between two datagrams


async def flood(host: Host, far: str, count: int, gap: float) -> None:
    """So many large datagrams, which nobody takes."""
    with sockets.udp(host, connect=(far, 7000)) as sock:
        for _ in range(count):
            with suppress(BlockingIOError, ConnectionRefusedError):
                sock.send(bytes(1300))
            await asyncio.sleep(gap)


# --- strangers

STRANGERS = 1000
ADDRESSES = 150  # so that eight of each are more than there may be in all
MOST_STRANGERS = 128
MOST_MEMORY = 4 * 1024  # KiB


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.long)])
async def test_a_thousand_slow_strangers_keep_no_peer_out_and_cost_little(hosts, seconds):
    left, right = await start(hosts, TCP)
    await network.give(hosts.right, "eth0", *(f"192.0.2.{number}/24" for number in range(10, 10 + ADDRESSES)))
    pid = left.child.pid
    descriptors, memory = len(os.listdir(f"/proc/{pid}/fd")), resident(pid)
    slow, most, end = strangers(hosts, range(STRANGERS)), 0, clock.now() + seconds
    try:
        while clock.now() < end:
            gone = [number for number, sock in enumerate(slow) if not trickle(sock)]
            for number, sock in zip(gone, strangers(hosts, gone), strict=True):
                slow[number].close()
                slow[number] = sock
            most = max(most, len(os.listdir(f"/proc/{pid}/fd")) - descriptors)
            assert (await ping(hosts.right, LEFT, count=1, timeout=0.5)).lost == 0
            await asyncio.sleep(0.05)
        assert MOST_STRANGERS / 2 < most <= MOST_STRANGERS + 4
        assert resident(pid) - memory <= MOST_MEMORY
        await right.kill()
        Daemon.start(hosts.right, right.config.read_text(), name=NAME)
        await passes_again(hosts, 6.0)
    finally:
        for sock in slow:
            sock.close()
    assert complaints(left.log()) == []
    await status_when(left, lambda status: status["state"] == "up")


def strangers(hosts, numbers: Sequence[int]) -> list[socket.socket]:
    """Connections from the addresses of right in turn, which do not block."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    made = hosts.right.call(lambda: [socket.socket(socket.AF_INET, kind) for _ in numbers])
    for number, sock in zip(numbers, made, strict=True):
        sock.bind((f"192.0.2.{10 + number % ADDRESSES}", 0))
        sock.connect_ex((hosts.left_v4, PORT))
    return made


def trickle(sock: socket.socket) -> bool:
    """Send one byte; whether the other side is still there."""
    try:
        sock.send(b"\0")
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def resident(pid: int) -> int:
    """The memory of a process in KiB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])
