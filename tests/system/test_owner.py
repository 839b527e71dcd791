"""Devices that are not simply ours: made by somebody else, left for somebody else, in another namespace."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from tests.system.conftest import INSIDE, LINK, NAME, Setup, complaints, inside, kernel_of, spawn, start, tunneld
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import wait_reachable

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

# Ends with exec, so that not even a process of user 0 gets a capability back.
UNPRIVILEGED = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""
# Holds t0 until the kernel has seen its carrier.
ATTACH = """
import subprocess
from tunneld.edge import tuntap
device = tuntap.attach("t0", "tun")
while b"state UP" not in subprocess.check_output(["ip", "link", "show", "t0"]):
    pass
"""


async def ip(host, command):
    done = await host.run(["ip", *command.split()])
    assert done.code == 0, done.output
    return done.output


async def prepare(host):
    """What an administrator does once, for a tunnel that runs without privileges."""
    await ip(host, "tuntap add dev t0 mode tun user root")
    for address in inside(0):
        await ip(host, f"addr add {address} dev t0" + (" nodad" if ":" in address else ""))
    await ip(host, "link set t0 mtu 1400 up")
    # Its first process takes the carrier along when it ends; only from then on the device looks the same. The kernel
    # tells the device and its routes of either within a second.
    assert (await host.run([sys.executable, "-c", ATTACH])).code == 0
    async with asyncio.timeout(10.0):
        while "NO-CARRIER" not in (await host.run(["ip", "link", "show", "t0"])).output:
            pass
        while "linkdown" not in (await host.run(["ip", "route", "show", "table", "all"])).output:
            pass


async def assert_as_before(host, before):
    """The carrier that a process took along when it ended is missing everywhere within a second."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5.0):
            while await kernel_of(host) != before:
                pass
    assert await kernel_of(host) == before


async def test_an_owner_without_any_capability_runs_a_tunnel_on_a_prepared_device(hosts):
    await prepare(hosts.left)
    before = await kernel_of(hosts.left)
    left = spawn(hosts.left, Setup().left(hosts), prefix=(sys.executable, "-c", UNPRIVILEGED))
    right = Daemon.start(hosts.right, Setup().right(hosts), name=NAME)
    await right.wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    assert await left.stop() == 0
    await assert_as_before(hosts.left, before)
    assert " ip " not in left.output()


async def test_a_change_that_an_owner_may_not_make_is_one_line(hosts):
    await prepare(hosts.left)
    before = await kernel_of(hosts.left)
    text = Setup(interface={"mtu": 1300}).left(hosts)
    left = spawn(hosts.left, text, prefix=(sys.executable, "-c", UNPRIVILEGED))
    assert await left.wait(10.0) == 1
    (line,) = complaints(left.output())
    assert "ip link set dev t0 mtu 1300: Operation not permitted; run as root, or with CAP_NET_ADMIN" in line
    await assert_as_before(hosts.left, before)


async def test_a_device_that_an_owner_may_not_make_is_one_line(hosts):
    left = spawn(hosts.left, Setup().left(hosts), prefix=(sys.executable, "-c", UNPRIVILEGED))
    assert await left.wait(10.0) == 1
    (line,) = complaints(left.output())
    assert f"{LINK}: making a device needs CAP_NET_ADMIN" in line
    assert f"tunneld device add {LINK} --mode tun --user root" in line


async def test_a_device_that_persists_is_left_bare_and_taken_again(hosts):
    setup = Setup(interface={"persist": True})
    for _ in range(2):
        left, right = await start(hosts, setup)
        assert [await left.stop(), await right.stop()] == [0, 0]
        said = await ip(hosts.left, "-d addr show dev t0")
        assert "tun type tun" in said
        assert "persist on" in said
        assert INSIDE["v4"][0] not in said
    assert (await tunneld(hosts.left, "device", "del", LINK)).code == 0


async def test_a_start_that_fails_leaves_no_device_that_would_persist(hosts):
    await ip(hosts.left, "addr add 10.9.0.77/24 dev eth0")
    before = await kernel_of(hosts.left)
    daemon = Daemon.start(hosts.left, Setup(interface={"persist": True}).left(hosts), name=NAME)
    assert await daemon.child.wait(10.0) == 2
    assert await kernel_of(hosts.left) == before


@pytest.fixture
async def work(hosts):
    """A namespace called "work", as `ip netns` knows them."""
    await ip(hosts.left, "netns add work")
    yield "work"
    await ip(hosts.left, "netns del work")


async def test_the_device_may_live_in_another_namespace_than_the_sockets(hosts, work):
    outside = await kernel_of(hosts.left)
    left, _ = await start_with_left_in(hosts, work, Setup())
    assert INSIDE["v4"][0] in await ip(hosts.left, f"-n {work} addr show dev {LINK}")
    assert await kernel_of(hosts.left) == outside
    assert f"ip -n {work} link set dev {LINK} up" in left.log()
    assert await left.stop() == 0
    assert LINK not in await ip(hosts.left, f"-n {work} link")


async def test_down_sweeps_the_other_namespace_too(hosts, work):
    empty = await ip(hosts.left, f"-n {work} -d addr")
    left, _ = await start_with_left_in(hosts, work, Setup("tcp", "tap", interface={"bridge": "br-t"}))
    await left.kill()
    assert "br-t" in await ip(hosts.left, f"-n {work} link")
    assert (await tunneld(hosts.left, "down", NAME)).code == 0
    assert await ip(hosts.left, f"-n {work} -d addr") == empty


async def start_with_left_in(hosts, namespace, setup):
    left = Daemon.start(hosts.left, setup.left(hosts, interface={"netns": namespace}), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, setup.right(hosts), name=NAME)
    await right.wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    return left, right
