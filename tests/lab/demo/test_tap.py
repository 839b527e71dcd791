from __future__ import annotations

import pytest

from tunneld.lab import network, topology
from tunneld.lab.demo import scene, tap


@pytest.fixture
async def lans(lab, pair):
    for gateway, members in ((pair.left, tap.LEFT_LAN), (pair.right, tap.RIGHT_LAN)):
        await topology.lan(lab, gateway, {name: [f"{address}/24"] for name, address in members.items()})


@pytest.mark.long
async def test_the_two_lans_become_one(lab, pair, lans, keys, screen, stream, steps):
    await tap.play(screen, lab, pair, keys)
    assert steps() == ["daemons", "handshake", "bridge", "arp", "ping"]
    assert network.mac(lab.hosts["right1"], "eth0") in stream.getvalue()


@pytest.mark.long
async def test_a_host_that_is_not_there_fails_the_step(lab, pair, lans, keys, screen, stream):
    await network.set_state(lab.hosts["right1"], "eth0", "down")
    with pytest.raises(scene.FAILURES):
        await tap.play(screen, lab, pair, keys)
    assert "✗ arp         10.20.0.21 does not answer left1" in stream.getvalue()


async def test_a_device_that_is_no_port_fails_the_step(pair, screen, stream):
    for host in (pair.left, pair.right):
        await network.bridge(host, "br0")
    with pytest.raises(scene.CheckError):
        await tap._bridges(screen, pair)
    assert "✗ bridge      there is no interface tap0" in stream.getvalue()
