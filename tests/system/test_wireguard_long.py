"""What takes minutes between tunneld and wireguard-go, all at once, each in hosts of its own."""

from __future__ import annotations

import asyncio
import itertools
import statistics

import pytest

from tests.system.conftest import INSIDE, inside
from tests.system.wireguard import (
    DATA,
    WireGuard,
    couple,
    host_prefixes,
    is_data,
    is_initiation,
    is_response,
    psk,
    udp_payload,
    until,
)
from tunneld.edge import clock
from tunneld.lab import topology
from tunneld.lab.capture import Capture
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.topology import Lab
from tunneld.lab.traffic import make_file, transfer

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
    pytest.mark.usefixtures("namespaces", "iproute2"),
]

LEFT, RIGHT = INSIDE["v4"]
REKEYED = 130.0  # seconds after which keys of 120 s have been renewed
THREE_MINUTES = 185.0
KEEPALIVES = (0, 1, 3, 10, 25)
WATCHED = 52.0  # seconds
FOUND_AGAIN = 17.0  # KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, and the delay by chance


async def test_minutes(tmp_path):
    async with asyncio.TaskGroup() as tasks:
        for initiator in ("tunneld", "wireguard-go"):
            tasks.create_task(new_keys_lose_nothing(initiator))
            tasks.create_task(found_again(killed=initiator))
        tasks.create_task(carries_for_three_minutes(tmp_path))
        for seconds in KEEPALIVES:
            tasks.create_task(keepalives_are_on_time(seconds, sender="tunneld"))
            tasks.create_task(keepalives_are_on_time(seconds, sender="wireguard-go"))


async def new_keys_lose_nothing(initiator):
    """Pings both ways all the time, while one end renews the keys at 120 s."""
    async with Lab.open() as lab:
        hosts = await topology.pair(lab)
        both = await couple(hosts, initiator=initiator, preshared_key=psk())
        first, target = (hosts.left, RIGHT) if initiator == "tunneld" else (hosts.right, LEFT)
        await wait_reachable(first, target)
        first_handshake = (await both.shown()).handshake
        count = int(REKEYED / 0.1)
        with Capture(hosts.left, "eth0") as wire:
            async with asyncio.TaskGroup() as tasks:
                pings = [
                    tasks.create_task(ping(host, target, count=count, interval=0.1, timeout=3.0))
                    for host, target in ((hosts.left, RIGHT), (hosts.right, LEFT))
                ]
            initiations = [packet for packet in wire.packets if is_initiation(packet)]
        assert [pinged.result().lost for pinged in pings] == [0, 0]
        assert [packet.outgoing for packet in initiations] == [initiator == "tunneld"]
        assert 118 <= (await both.shown()).handshake - first_handshake <= 125
        await both.agree()


async def found_again(*, killed):
    """An end is killed, runs again, and does not know the way: the other finds out that nothing comes back."""
    async with Lab.open() as lab:
        hosts = await topology.pair(lab)
        both = await couple(hosts, initiator="wireguard-go" if killed == "tunneld" else "tunneld")
        other, target = (hosts.right, LEFT) if killed == "tunneld" else (hosts.left, RIGHT)
        await wait_reachable(other, target)
        if killed == "tunneld":
            await both.daemon.kill()
            daemon = Daemon.start(hosts.left, both.daemon.config.read_text(), name=both.daemon.name)
            await daemon.wait_ready()
        else:
            await both.wireguard.child.kill()
            again = await WireGuard.start(hosts.right, both.theirs, addresses=inside(1))
            await again.set_peer(both.ours.public, *host_prefixes(inside(0)))
        await wait_reachable(other, target, timeout=FOUND_AGAIN)


async def carries_for_three_minutes(directory):
    """TCP both ways at the same time, and no handshake has to be repeated."""
    async with Lab.open() as lab:
        hosts = await topology.pair(lab)
        both = await couple(hosts, initiator="tunneld")
        await wait_reachable(hosts.left, RIGHT)
        make_file(directory / "sent", 4_000_000)
        end = clock.now() + THREE_MINUTES
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(carry(hosts.left, hosts.right, RIGHT, directory, end))
            tasks.create_task(carry(hosts.right, hosts.left, LEFT, directory, end))
        log = both.wireguard.child.output()
        assert log.count("Sending handshake response") == 2  # to the first, and to that of 120 s later
        assert "retrying" not in log
        assert (await both.daemon.status())["causes"] == []


async def carry(sender, receiver, address, directory, end):
    for _ in itertools.takewhile(lambda _: clock.now() < end, itertools.count()):
        target = directory / f"to-{receiver.name}"
        assert (await transfer(sender, directory / "sent", receiver, target, (address, 7000))).intact


async def keepalives_are_on_time(seconds, *, sender):
    """Only `sender` keeps alive: by empty messages, to which nothing comes back; if it does not, nobody speaks."""
    async with Lab.open() as lab:
        hosts = await topology.pair(lab)
        with Capture(hosts.left, "eth0") as wire:
            both = await couple(hosts, initiator=sender, keepalive=seconds)
            if seconds or sender == "tunneld":
                await until(both.is_up)
            await asyncio.sleep(WATCHED)
            data = [packet for packet in wire.packets if is_data(packet)]
            handshakes = [packet for packet in wire.packets if is_initiation(packet) or is_response(packet)]
        assert len(handshakes) == (2 if seconds or sender == "tunneld" else 0)
        assert [packet.outgoing for packet in data] == [sender == "tunneld"] * len(data)
        assert {len(udp_payload(packet)) for packet in data} <= {DATA}
        moments = [packet.time for packet in data[1:]]  # the first confirms the handshake
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        assert len(moments) == pytest.approx(WATCHED // seconds if seconds else 0, abs=1 + WATCHED // 25)
        # One may be late on a busy machine, so that the next one seems early; that none is missing is counted above.
        assert all(seconds - 0.5 < gap < seconds + 2.0 for gap in gaps), gaps
        assert not gaps or seconds - 0.1 < statistics.median(gaps) < seconds + 0.5
