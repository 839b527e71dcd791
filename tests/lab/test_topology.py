from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from tunneld.lab import network, topology
from tunneld.lab.ping import ping
from tunneld.lab.topology import RUN, Lab


async def test_the_two_hosts_of_a_pair_reach_each_other(pair):
    for address in (pair.right_v4, pair.right_v6):
        assert (await ping(pair.left, address)).lost == 0
    for address in (pair.left_v4, pair.left_v6):
        assert (await ping(pair.right, address)).lost == 0


async def test_routed_hosts_reach_each_other_only_through_the_router(lab):
    hosts = await topology.routed(lab)
    for address in (hosts.right_v4, hosts.right_v6):
        assert (await ping(hosts.left, address)).lost == 0
    for address in (hosts.west_v4, hosts.west_v6, hosts.east_v4, hosts.east_v6):
        assert (await ping(hosts.right, address, count=1)).lost == 0
    await network.set_state(hosts.router, "west", "down")
    assert (await ping(hosts.left, hosts.right_v4, count=1, timeout=0.2)).lost == 1


async def test_a_lan_is_joined_by_the_bridge_and_ends_there(lab, pair):
    await topology.lan(lab, pair.left, {"one": ["10.20.0.1/24"], "two": ["10.20.0.2/24", "fd00::2/64"]})
    await topology.lan(lab, pair.right, {"three": ["10.20.0.3/24"]})
    assert (await ping(lab.hosts["one"], "10.20.0.2")).lost == 0
    assert (await ping(lab.hosts["one"], "10.20.0.3", count=1, timeout=0.2)).lost == 1


async def test_leaving_the_lab_leaves_nothing(namespaces):
    before = (sorted(os.listdir("/proc/self/fd")), sorted(RUN.iterdir()))
    async with Lab.open() as lab:
        hosts = await topology.routed(lab)
        child = hosts.left.spawn(["sleep", "60"], name="sleep")
    assert not child.running
    assert (sorted(os.listdir("/proc/self/fd")), sorted(RUN.iterdir())) == before


async def test_an_error_inside_passes_and_leaves_nothing(namespaces):
    before = sorted(RUN.iterdir())
    with pytest.raises(FileNotFoundError):
        async with Lab.open() as lab:
            lab.host("one").spawn(["no-such-program"], name="none")
    assert sorted(RUN.iterdir()) == before


async def test_a_killed_lab_leaves_no_process_no_namespace_and_no_file(namespaces):
    """A cable leads out of the lab into our own namespace: our end goes when the namespace at the other end does."""
    script = textwrap.dedent(
        """
        import asyncio, os, pathlib, sys
        from tunneld.lab import network, sandbox, topology
        from tunneld.lab.host import Host
        outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        sandbox.enter()
        async def main():
            async with topology.Lab.open() as lab:
                hosts = await topology.pair(lab)
                await network.cable(Host("outside", outside, pathlib.Path("/")), "probe0", hosts.left, "probe1")
                children = [host.spawn(["sleep", "60"], name="sleep") for host in lab.hosts.values()]
                print(*(child.pid for child in children), flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    before = sorted(RUN.iterdir())
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        assert "probe0" in [name for _, name in socket.if_nameindex()]
        process.kill()
    left_over = {"probe0", *children}
    async with asyncio.timeout(10):
        while left_over:
            await asyncio.sleep(0.01)
            links = {name for _, name in socket.if_nameindex()}
            left_over &= links | set(map(int, filter(str.isdecimal, os.listdir("/proc"))))
    assert sorted(RUN.iterdir()) == before
