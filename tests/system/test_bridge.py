"""Two LANs that a tunnel makes one, as the samples in configs/ do.

l1 ─┐                                            ┌─ r1
    ├─ br0 left t0 ════ TCP, TAP ════ t0 right br0 ┤
l2 ─┘                                            └─ r2
"""

from __future__ import annotations

import pytest

from tests import samples
from tests.system.conftest import NAME, kernel_of
from tunneld.lab import network, topology
from tunneld.lab.capture import Capture
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.traffic import make_file, transfer

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

LAN = {
    "left": {"l1": ["10.50.0.11/24"], "l2": ["10.50.0.12/24"]},
    "right": {"r1": ["10.50.0.21/24"], "r2": ["10.50.0.22/24"]},
}
FULL = 1472  # bytes of ping data that fill an IP packet of 1500


@pytest.fixture
async def gateways(hosts, lab):
    """Left and right, each with the bridge br0 and two hosts on it."""
    await topology.lan(lab, hosts.left, LAN["left"])
    await topology.lan(lab, hosts.right, LAN["right"])
    return hosts


async def joined(hosts):
    daemons = [
        Daemon.start(host, samples.install(f"bridge-{host.name}.toml", host.run_dir), name=NAME)
        for host in (hosts.left, hosts.right)
    ]
    for daemon in daemons:
        await daemon.wait_ready()
    await daemons[0].wait_state("up")
    return daemons


async def test_a_host_on_the_left_reaches_a_host_on_the_right_by_arp(lab, gateways):
    before = [await kernel_of(host) for host in (gateways.left, gateways.right)]
    l1, r1 = lab.hosts["l1"], lab.hosts["r1"]
    assert (await ping(l1, "10.50.0.21", count=1, timeout=0.3)).lost == 1
    daemons = await joined(gateways)
    await wait_reachable(l1, "10.50.0.21")
    assert network.neighbours(l1)["10.50.0.21"] == network.mac(r1, "eth0")
    assert network.neighbours(r1)["10.50.0.11"] == network.mac(l1, "eth0")
    assert [await daemon.stop() for daemon in daemons] == [0, 0]
    assert [await kernel_of(host) for host in (gateways.left, gateways.right)] == before


async def test_frames_of_full_size_pass_whole(lab, gateways):
    await joined(gateways)
    l1, r1 = lab.hosts["l1"], lab.hosts["r1"]
    await wait_reachable(l1, "10.50.0.21")
    with Capture(r1, "eth0") as wire:
        assert (await ping(l1, "10.50.0.21", size=FULL)).lost == 0
        requests = [packet.data for packet in wire.packets if "echo request" in str(packet)]
    assert {len(frame) for frame in requests} == {14 + 1500}


async def test_every_host_reaches_every_other_and_what_it_sends_arrives(lab, gateways, tmp_path):
    await joined(gateways)
    addresses = {name: own[0].split("/")[0] for side in LAN.values() for name, own in side.items()}
    for near in addresses:
        for far in addresses.keys() - {near}:
            await wait_reachable(lab.hosts[near], addresses[far])
    make_file(tmp_path / "sent", 3_000_000)
    for near, far in (("l1", "r2"), ("r1", "l2")):
        moved = await transfer(
            lab.hosts[near], tmp_path / "sent", lab.hosts[far], tmp_path / far, (addresses[far], 7000)
        )
        assert moved.intact
