"""Starts that must fail in one line and change nothing, and starts that are interrupted at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal

import pytest

from tests.system.conftest import (
    INSIDE,
    LINK,
    MS_BIND,
    NAME,
    PORT,
    Setup,
    complaints,
    kernel_of,
    mounted,
    spawn,
    start,
    status_when,
)
from tunneld.edge import clock
from tunneld.lab import network
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import ping, wait_reachable

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

TRIES = 20
IN_CLEAR = "travels in clear"  # told when signals are heeded, and before anything of ours is there to be undone

# A bridge that does not exist, addresses, an MTU: every kind of change there is.
BRIDGED = Setup("tcp", "tap", interface={"bridge": "br-t"})


async def refused(host, text):
    """The log of a start that must fail with exit code 1 and leave the kernel as it was."""
    before = await kernel_of(host)
    daemon = Daemon.start(host, text, name=NAME)
    assert await daemon.child.wait(10.0) == 1
    assert await kernel_of(host) == before
    log = daemon.log()
    assert "Traceback" not in log
    return log


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_port_that_is_taken_is_one_line_that_names_who_has_it(hosts, transport):
    holder = Daemon.start(hosts.left, Setup(transport).left(hosts), name="holder")
    await holder.wait_ready()
    log = await refused(hosts.left, Setup(transport, interface={"name": "t1", "addresses": []}).left(hosts))
    (line,) = complaints(log)
    assert f"cannot listen on {transport} [::]:{PORT}: already used by pid {holder.child.pid} (" in line


async def test_a_second_daemon_of_a_name_is_refused_and_the_first_unharmed(hosts):
    left, _ = await start(hosts, Setup())
    config = left.config.read_text()
    again = spawn(hosts.left, config)
    assert await again.wait(10.0) == 1
    (line,) = complaints(again.output())
    assert f"{NAME} runs already (pid {left.child.pid}); stop it first: tunneld down {NAME}" in line
    assert (await ping(hosts.left, INSIDE["v4"][1])).lost == 0
    await left.wait_state("up")


async def test_a_device_that_is_busy_is_one_line(hosts):
    holder = Daemon.start(hosts.left, Setup().left(hosts), name="holder")
    await holder.wait_ready()
    (line,) = complaints(await refused(hosts.left, Setup().left(hosts, port=PORT + 1)))
    assert f"{LINK}: is busy (" in line
    assert f"pid {holder.child.pid}, " in line


async def test_a_foreign_address_in_the_way_is_the_operators_fault(hosts):
    await network.give(hosts.left, "eth0", "10.9.0.77/24")
    before = await kernel_of(hosts.left)
    daemon = Daemon.start(hosts.left, Setup().left(hosts), name=NAME)
    assert await daemon.child.wait(10.0) == 2
    (line,) = complaints(daemon.log())
    assert "10.9.0.1/24 already on eth0 as 10.9.0.77/24; choose another subnet" in line
    assert await kernel_of(hosts.left) == before


async def test_a_full_disk_for_the_runtime_directory_stops_nothing(hosts):
    full = hosts.left.run_dir / "full"
    full.mkdir()
    with mounted("tmpfs", full, "tmpfs", options="size=64k"):
        fill(full / "ballast")
        left = spawn(hosts.left, Setup().left(hosts), env={"RUNTIME_DIRECTORY": str(full)})
        right = Daemon.start(hosts.right, Setup().right(hosts), name=NAME)
        await right.wait_ready()
        await wait_reachable(hosts.left, INSIDE["v4"][1])
        assert (full / f"{NAME}.sock").is_socket()
        assert await left.stop() == 0
    (line,) = [line for line in left.output().splitlines() if "No space left" in line]
    assert "after a kill -9, what is left must be removed by hand" in line


async def test_a_runtime_directory_without_room_for_a_file_is_one_line(hosts):
    full = hosts.left.run_dir / "full"
    full.mkdir()
    before = await kernel_of(hosts.left)
    with mounted("tmpfs", full, "tmpfs", options="nr_inodes=1"):
        left = spawn(hosts.left, Setup().left(hosts), env={"RUNTIME_DIRECTORY": str(full)})
        assert await left.wait(10.0) == 1
    (line,) = complaints(left.output())
    assert f"cannot use {full}: No space left on device; set RUNTIME_DIRECTORY to another directory" in line
    assert await kernel_of(hosts.left) == before


def fill(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_for_the_log_stops_nothing(hosts):
    deaf = spawn(hosts.left, Setup().left(hosts), prefix=("sh", "-c", 'exec "$@" 2>/dev/full', "sh"))
    right = Daemon.start(hosts.right, Setup().right(hosts), name=NAME)
    await right.wait_ready()
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    assert deaf.running
    assert await deaf.stop() == 0
    assert deaf.output() == ""


async def test_a_name_that_does_not_resolve_is_asked_again_until_it_does(hosts, tmp_path):
    names = tmp_path / "hosts"
    names.write_text("127.0.0.1 localhost\n")
    servers = tmp_path / "resolv.conf"
    servers.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    left = Daemon.start(hosts.left, Setup("tcp").left(hosts), name=NAME)
    await left.wait_ready()
    with mounted(str(names), "/etc/hosts", flags=MS_BIND), mounted(str(servers), "/etc/resolv.conf", flags=MS_BIND):
        right = Daemon.start(hosts.right, Setup("tcp").right(hosts, f"office.test:{PORT}"), name=NAME)
        await right.wait_ready()
        await status_when(right, lambda status: "cannot resolve office.test" in status["reason"])
        names.write_text(f"127.0.0.1 localhost\n{hosts.left_v4} office.test\n")
        await right.wait_state("up")
        await wait_reachable(hosts.right, INSIDE["v4"][0])


async def test_a_signal_at_any_moment_of_the_start_ends_it_and_leaves_nothing(hosts):
    chance = random.Random(7)
    text = BRIDGED.left(hosts)
    before = await kernel_of(hosts.left)
    longest = await time_to_start(hosts, text)
    begun = 0
    for _ in range(TRIES):
        (hosts.left.run_dir / f"{NAME}.log").unlink()
        child = spawn(hosts.left, text)
        await asyncio.sleep(chance.uniform(0.3 * longest, longest))
        child.signal(chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))
        code = await child.wait(10.0)
        if IN_CLEAR in child.output():
            assert code == 0
            begun += 1
        else:
            longest *= 1.1  # other tests run beside this one, and it may have become slower
        assert await kernel_of(hosts.left) == before
    assert begun >= TRIES // 4


async def time_to_start(hosts, text):
    """The seconds from a start until READY, and a little."""
    began = clock.now()
    daemon = Daemon.start(hosts.left, text, name=NAME)
    await daemon.wait_ready()
    took = clock.now() - began
    assert await daemon.stop() == 0
    return took * 1.2
