from __future__ import annotations

import pytest

from tunneld.lab import network, topology
from tunneld.lab.demo import scene, tap


@pytest.fixture
async def lans(lab, pair):
    for gateway, members in ((pair.left, tap.LEFT_LAN), (pair.right, tap.RIGHT_LAN)):
        await topology.lan(lab, gateway, {name: [f"{address}/24"] for name, address in members.items()})


async def test_the_two_lans_become_one(lab, pair, lans, screen, stream):
    await tap.play(screen, lab, pair)
    shown = stream.getvalue()
    steps = [line.split()[1] for line in shown.splitlines() if line.startswith("  ✓")]
    assert steps == ["daemons", "connection", "bridge", "arp", "ping"]
    assert network.mac(lab.hosts["right1"], "eth0") in shown


async def test_a_host_that_is_not_there_fails_the_step(lab, pair, lans, screen, stream):
    await network.set_state(lab.hosts["right1"], "eth0", "down")
    with pytest.raises(scene.FAILURES):
        await tap.play(screen, lab, pair)
    assert "✗ arp         10.20.0.21 does not answer left1" in stream.getvalue()
