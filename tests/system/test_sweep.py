"""What a kill -9 leaves behind, and `tunneld down NAME`, after which nothing of it is there any more."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.system.conftest import NAME, Setup, kernel_of, spawn, start, tunneld
from tunneld.edge import clock
from tunneld.lab.daemon import Daemon

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

# What outlives the daemon: a bridge that was not there, and changes to a device and a bridge that were.
MADE = Setup("tcp", "tap", interface={"bridge": "br-t"})
JOINED = Setup("tcp", "tap", interface={"bridge": "br0", "txqueuelen": 77})
ROUTES = {"network": {"routes": ["10.99.0.0/16", "fd99::/64"]}}


async def prepare(host):
    """A device and a bridge of the operator, used by others too."""
    for command in (
        "tuntap add dev t0 mode tap",
        "link set t0 up",  # once, since a device that never was up has no queueing discipline yet
        "link set t0 down",
        "link add br0 type bridge",
        "link add name other type veth peer name far",
        "link set other master br0",
        "link set br0 up",
        "addr add 172.16.0.1/24 dev br0",
    ):
        assert (await host.run(["ip", *command.split()])).code == 0


@pytest.mark.parametrize("setup", [pytest.param(MADE, id="made"), pytest.param(JOINED, id="joined")])
async def test_down_after_a_kill_leaves_the_kernel_as_it_was(hosts, setup):
    if setup is JOINED:
        await prepare(hosts.left)
    before = await kernel_of(hosts.left)
    daemon = Daemon.start(hosts.left, setup.left(hosts, **ROUTES), name=NAME)
    await daemon.wait_ready()
    await daemon.kill()
    assert await kernel_of(hosts.left) != before
    down = await tunneld(hosts.left, "down", NAME)
    assert down.code == 0, down.output
    assert await kernel_of(hosts.left) == before


async def test_down_of_a_running_tunnel_stops_it_and_leaves_nothing(hosts):
    before = await kernel_of(hosts.left)
    left, _ = await start(hosts, MADE)
    down = await tunneld(hosts.left, "down", NAME)
    assert down.code == 0, down.output
    assert await left.child.wait(1.0) == 0
    assert await kernel_of(hosts.left) == before


async def test_a_start_after_a_kill_needs_no_down(hosts):
    await prepare(hosts.left)
    before = await kernel_of(hosts.left)
    daemon = Daemon.start(hosts.left, JOINED.left(hosts, **ROUTES), name=NAME)
    await daemon.wait_ready()
    await daemon.kill()
    again = Daemon.start(hosts.left, JOINED.left(hosts, **ROUTES), name=NAME)
    await again.wait_ready()
    assert await again.stop() == 0
    assert await kernel_of(hosts.left) == before


async def killed_at_random(hosts, setup, times, seed):
    """Kill a start (and, after it, a run) at random moments; `down` each time."""
    chance = random.Random(seed)
    text = setup.left(hosts, **ROUTES)
    before = await kernel_of(hosts.left)
    began = clock.now()
    first = Daemon.start(hosts.left, text, name=NAME)
    await first.wait_ready()
    longest = clock.now() - began
    await first.kill()
    assert (await tunneld(hosts.left, "down", NAME)).code == 0
    for number in range(times):
        child = spawn(hosts.left, text)
        # The interpreter's own start changes nothing.
        await asyncio.sleep(chance.uniform(0.4, 1.1) * longest)
        await child.kill()
        down = await tunneld(hosts.left, "down", NAME)
        assert down.code == 0, down.output
        assert await kernel_of(hosts.left) == before, f"try {number}: {child.output()}"


async def test_down_after_a_kill_at_any_moment_of_the_start(hosts):
    await killed_at_random(hosts, MADE, 5, seed=1)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("setup", [pytest.param(MADE, id="made"), pytest.param(JOINED, id="joined")])
async def test_down_after_twenty_kills_at_any_moment_of_the_start(hosts, setup):
    if setup is JOINED:
        await prepare(hosts.left)
    await killed_at_random(hosts, setup, 20, seed=2)
