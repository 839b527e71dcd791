from __future__ import annotations

import pytest

from tunneld.lab import network
from tunneld.lab.ping import ping
from tunneld.netcfg.model import KernelError


@pytest.fixture
async def cabled(lab):
    """left a ── b right, without addresses."""
    left, right = lab.host("left"), lab.host("right")
    await network.cable(left, "a", right, "b")
    return left, right


async def test_a_cable_carries_packets_as_soon_as_it_has_addresses(cabled):
    left, right = cabled
    await network.give(left, "a", "192.0.2.1/24", "2001:db8::1/64")
    await network.give(right, "b", "192.0.2.2/24", "2001:db8::2/64")
    assert (await ping(left, "192.0.2.2")).lost == 0
    assert (await ping(right, "2001:db8::1")).lost == 0


async def test_a_cable_is_pulled_at_one_end_and_plugged_again(cabled):
    left, right = cabled
    await network.give(left, "a", "192.0.2.1/24")
    await network.give(right, "b", "192.0.2.2/24")
    await network.set_state(right, "b", "down")
    assert (await ping(left, "192.0.2.2", count=1, timeout=0.2)).lost == 1
    await network.set_state(right, "b", "up")
    assert (await ping(left, "192.0.2.2", count=1)).lost == 0


async def test_neighbours_are_those_that_answered_arp(cabled):
    left, right = cabled
    await network.give(left, "a", "192.0.2.1/24")
    await network.give(right, "b", "192.0.2.2/24")
    assert network.neighbours(left) == {}
    await ping(left, "192.0.2.3", count=1, timeout=0.1)
    await ping(left, "192.0.2.2", count=1)
    assert network.neighbours(left) == {"192.0.2.2": network.mac(right, "b")}


async def test_a_bridge_joins_its_ports(lab):
    gateway, one, other = lab.host("gateway"), lab.host("one"), lab.host("other")
    for number, member in enumerate((one, other), 1):
        await network.cable(gateway, member.name, member, "eth0")
        await network.give(member, "eth0", f"10.0.0.{number}/24")
    await network.bridge(gateway, "br0", "one")
    assert (await ping(one, "10.0.0.2", count=1, timeout=0.2)).lost == 1
    await network.bridge(gateway, "br1")
    assert (await ping(one, "10.0.0.2", count=1, timeout=0.2)).lost == 1


async def test_a_router_forwards_only_once_it_is_told_to(lab):
    left, middle, right = lab.host("left"), lab.host("middle"), lab.host("right")
    await network.cable(left, "eth0", middle, "west")
    await network.cable(middle, "east", right, "eth0")
    await network.give(left, "eth0", "192.0.2.2/24")
    await network.give(middle, "west", "192.0.2.1/24")
    await network.give(middle, "east", "198.51.100.1/24")
    await network.give(right, "eth0", "198.51.100.2/24")
    await network.route(left, "0.0.0.0/0", "192.0.2.1")
    await network.route(right, "192.0.2.0/24", "198.51.100.1")
    assert (await ping(left, "198.51.100.2", count=1, timeout=0.2)).lost == 1
    network.forward(middle)
    assert (await ping(left, "198.51.100.2", count=1)).lost == 0


async def test_the_kernels_refusal_is_not_hidden(lab):
    left, right = lab.host("left"), lab.host("right")
    with pytest.raises(KernelError, match="ip link set dev absent up"):
        await network.set_state(left, "absent", "up")
    with pytest.raises(KernelError, match=r"ip route add 192\.0\.2\.0/24 via 198\.51\.100\.1: "):
        await network.route(left, "192.0.2.0/24", "198.51.100.1")
    with pytest.raises(KernelError, match="ip link add lo type veth peer eth0 netns right: "):
        await network.cable(left, "lo", right, "eth0")
