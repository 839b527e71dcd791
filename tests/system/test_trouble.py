"""A tunnel that runs, and what then goes wrong: the peer, the cable, an address, the device, the connection.

When the trouble is over, traffic passes again within three seconds, and nobody had to help.
"""

from __future__ import annotations

import pytest

from tests.system.conftest import (
    BACK_AGAIN,
    INSIDE,
    LINK,
    NAME,
    PORT,
    Setup,
    complaints,
    kernel_of,
    start,
    status_when,
)
from tunneld.edge import clock
from tunneld.lab import network, topology
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.tcp_relay import TcpRelay

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

FOUND = 15.0  # seconds in which a half-open connection is found

# Every kind of change there is: a bridge that does not exist, its addresses, an MTU.
BRIDGED = Setup("tcp", "tap", interface={"bridge": "br-t"})
SETUPS = [pytest.param(Setup(), id="udp-tun"), pytest.param(BRIDGED, id="tcp-bridge")]


async def passes_again(hosts):
    await wait_reachable(hosts.left, INSIDE["v4"][1], timeout=BACK_AGAIN)


async def passes(hosts) -> bool:
    return (await ping(hosts.left, INSIDE["v4"][1], count=1, timeout=0.3)).lost == 0


@pytest.mark.parametrize("end", ["killed", "stopped"])
@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
@pytest.mark.parametrize("setup", SETUPS)
async def test_a_daemon_that_starts_again_is_found(hosts, setup, side, end):
    daemons = await start(hosts, setup)
    daemon = daemons[side]
    if end == "killed":
        await daemon.kill()
    else:
        assert await daemon.stop() == 0
    assert not await passes(hosts)
    Daemon.start(daemon.host, daemon.config.read_text(), name=NAME)
    await passes_again(hosts)
    other = daemons[1 - side]
    assert complaints(other.log()) == []


@pytest.mark.parametrize("setup", SETUPS)
async def test_a_cable_that_is_pulled_and_put_back(hosts, setup):
    await start(hosts, setup)
    await network.set_state(hosts.right, "eth0", "down")
    assert not await passes(hosts)
    await network.set_state(hosts.right, "eth0", "up")
    await passes_again(hosts)


@pytest.mark.parametrize("setup", SETUPS)
async def test_an_outside_address_that_goes_and_comes_back(hosts, setup):
    _, right = await start(hosts, setup)
    outside = f"{hosts.right_v4}/24"
    assert (await hosts.right.run(["ip", "addr", "del", outside, "dev", "eth0"])).code == 0
    assert not await passes(hosts)
    await network.give(hosts.right, "eth0", outside)
    await passes_again(hosts)
    assert complaints(right.log()) == []


@pytest.mark.parametrize("command", ["link del t0", "link set t0 down"])
@pytest.mark.parametrize("setup", SETUPS)
async def test_a_device_that_is_lost_is_repaired(hosts, setup, command):
    before = await kernel_of(hosts.left)
    left, _ = await start(hosts, setup)
    assert (await hosts.left.run(["ip", *command.split()])).code == 0
    await passes_again(hosts)
    words = "was deleted" if "del" in command else "was set down"
    assert left.log().count(f"{LINK}: the device {words}; repairing it") == 1
    assert left.log().count(f"{LINK}: repaired") == 1
    await left.wait_state("up", BACK_AGAIN)
    assert await left.stop() == 0
    assert await kernel_of(hosts.left) == before


@pytest.mark.parametrize("command", ["link del t0", "link set t0 down"])
async def test_a_device_that_is_lost_ends_the_run_where_the_configuration_says_so(hosts, command):
    before = await kernel_of(hosts.left)
    setup = Setup("tcp", "tap", interface={"bridge": "br-t", "on_loss": "stop"})
    left, _ = await start(hosts, setup)
    assert (await hosts.left.run(["ip", *command.split()])).code == 0
    assert await left.child.wait(5.0) == 1
    (line,) = complaints(left.log())
    assert line.endswith("was deleted" if "del" in command else "was set down")
    assert "Traceback" not in left.log()
    assert await kernel_of(hosts.left) == before


async def test_a_device_that_cannot_be_repaired_is_down_until_it_can(hosts):
    """Somebody takes the name while the device is away, and gives it back."""
    left, _ = await start(hosts, Setup())
    taken = "ip link del t0 && ip link add t0 type bridge"
    assert (await hosts.left.run(["sh", "-c", taken])).code == 0
    status = await status_when(left, lambda status: "no TUN or TAP device" in status["reason"])
    assert status["state"] == "down"
    assert (await hosts.left.run(["ip", "link", "del", "t0"])).code == 0
    await wait_reachable(hosts.left, INSIDE["v4"][1], timeout=10.0)
    assert f"{LINK}: repaired" in left.log()


@pytest.mark.long
@pytest.mark.parametrize("sending", [False, True], ids=["idle", "sending"])
async def test_a_half_open_connection_is_found_and_replaced(lab, sending):
    """left ── router, where the relay is ── right: from one moment on the relay is silent on what it carries."""
    hosts = await topology.routed(lab)
    with TcpRelay(hosts.router, (hosts.east_v4, PORT), (hosts.left_v4, PORT)) as relay:
        left = Daemon.start(hosts.left, Setup("tcp").left(hosts), name=NAME)
        right = Daemon.start(hosts.right, Setup("tcp").right(hosts, f"{hosts.east_v4}:{PORT}"), name=NAME)
        await left.wait_ready()
        await right.wait_ready()
        await wait_reachable(hosts.left, INSIDE["v4"][1])
        relay.half_open()
        began = clock.now()
        if sending:
            # Late, between two keepalive probes: from then on the kernel would wait 10 s for this alone.
            await status_when(right, lambda _: clock.now() - began > 9.0, FOUND)
            assert (await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.1)).lost == 1
        await status_when(left, lambda status: status["state"] != "up" or relay.accepted == 2, FOUND)
        await status_when(right, lambda _: relay.accepted == 2, FOUND)
        assert clock.now() - began <= FOUND
        await wait_reachable(hosts.left, INSIDE["v4"][1], timeout=BACK_AGAIN)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_ends_in_different_modes_are_told(hosts, transport):
    ends = (Setup(transport, "tun"), Setup(transport, "tap"))
    left = Daemon.start(hosts.left, ends[0].left(hosts), name=NAME)
    right = Daemon.start(hosts.right, ends[1].right(hosts), name=NAME)
    await left.wait_ready()
    await right.wait_ready()
    await right.wait_state("up")
    for daemon, target in ((right, INSIDE["v4"][0]), (left, INSIDE["v4"][1])):
        await ping(daemon.host, target, count=1, timeout=0.2)
    told = "write the same mode at both ends"
    await status_when(left, lambda status: status["drops"].get("wrong-mode", 0) > 0 and told in left.log())
    await status_when(right, lambda status: status["drops"].get("wrong-mode", 0) > 0 and told in right.log())
