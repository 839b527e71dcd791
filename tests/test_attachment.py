"""The attachment in a namespace of its own, with the real kernel; `ip` makes the trouble and is the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import resource
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

import pytest

from tests.conftest import missing
from tunneld.attachment import Attachment
from tunneld.config import InterfaceConfig
from tunneld.daemon import end
from tunneld.edge import clock, netns
from tunneld.edge.device import Device, DeviceLostError
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.model import KernelError, Wish
from tunneld.proto.backoff import Backoff
from tunneld.proto.const import ETHERNET_BYTES
from tunneld.proto.errors import ConfigErrors
from tunneld.proto.plain import PlainTunnel
from tunneld.pump import Pump

TAP = InterfaceConfig(name="t0", mode="tap", mtu=1400, bridge="br-t")
WISH = Wish("t", "t0", "tap", mtu=1400, bridge="br-t", addresses=(ip_interface("10.9.0.1/24"),))


@dataclass
class Bench:
    """A namespace, and what attachments in it have told."""

    space: int
    kernel: Kernel
    states: list[str] = field(default_factory=list)
    tunnel: PlainTunnel = field(default_factory=lambda: PlainTunnel(mode="tun", max_packet=0))

    def attachment(self, interface: InterfaceConfig = TAP, wish: Wish | None = WISH) -> Attachment:
        made = Attachment(
            Pump(self.tunnel, clock.now),
            self.tunnel,
            self.kernel,
            interface,
            wish=wish,
            namespace=self.space,
            device_class=Device,
            backoff=Backoff(lambda: 0.0),
            changed=lambda: self.states.append(made.trouble),
        )
        return made

    def ip(self, words: str) -> str:
        argv = ["ip", *words.split()]
        try:
            return netns.call_in(self.space, lambda: subprocess.check_output(argv, text=True))
        except FileNotFoundError:
            missing("ip is not installed: apt-get install iproute2")
            raise

    def everything(self) -> str:
        looks = ("-d link", "addr", "route show table all", "rule")
        return re.sub(r"_timer +[0-9.]+", "_timer", "".join(map(self.ip, looks)))

    async def until(self, state: str) -> None:
        """Wait until the attachment has told `state`."""
        async with asyncio.timeout(5.0):
            while state not in self.states:  # noqa: ASYNC110 (what is told is no event)
                await asyncio.sleep(0.01)
        self.states.clear()


@pytest.fixture
async def bench(namespaces, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    space = netns.new()
    async with Kernel.open(space) as kernel:
        yield Bench(space, kernel)
    os.close(space)


@asynccontextmanager
async def kept(attachment):
    """The attachment open and kept, as the daemon does it."""
    await attachment.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(attachment.keep())
            yield task
            await end([task])
    finally:
        await attachment.close()


async def test_what_open_makes_close_takes_back(bench):
    before = bench.everything()
    attachment = bench.attachment()
    await attachment.open()
    assert "10.9.0.1/24" in bench.ip("addr show dev br-t")
    assert "master br-t" in bench.ip("link show dev t0")
    assert (attachment.mtu, bench.tunnel.max_packet) == (1400, 1400 + ETHERNET_BYTES)
    await attachment.close()
    assert attachment.device is None
    assert bench.everything() == before
    await attachment.close()


async def test_an_open_that_fails_leaves_nothing(bench):
    bench.ip("link add other type bridge")
    bench.ip("addr add 10.9.0.77/24 dev other")
    before = bench.everything()
    attachment = bench.attachment(replace(TAP, persist=True))
    with pytest.raises(ConfigErrors, match="already on other"):
        await attachment.open()
    assert attachment.device is None
    assert bench.everything() == before


@pytest.mark.parametrize(("command", "why"), [("link del t0", "deleted"), ("link set t0 down", "set down")])
async def test_a_lost_device_is_told_at_once_and_repaired(bench, command, why):
    before = bench.everything()
    attachment = bench.attachment()
    async with kept(attachment):
        bench.states.clear()
        bench.ip(command)
        await bench.until(f"t0: the device was {why}")
        await bench.until("")
        assert "master br-t" in bench.ip("link show dev t0")
    assert bench.everything() == before


async def test_a_deletion_is_never_called_anything_else(bench):
    for _ in range(10):
        attachment = bench.attachment(replace(TAP, on_loss="stop"))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(attachment.close)
            await attachment.open()
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(lost(attachment))
                await asyncio.sleep(0)
                bench.ip("link del t0")
            assert str(task.result()) == "t0: the device was deleted"


async def lost(attachment) -> DeviceLostError:
    with pytest.raises(DeviceLostError) as caught:
        await attachment.keep()
    return caught.value


async def test_a_device_under_another_name_is_lost_too(bench):
    before = bench.everything()
    attachment = bench.attachment()
    async with kept(attachment):
        bench.states.clear()
        bench.ip("link set t0 down name other")
        await bench.until("t0: the device was renamed to other")
        await bench.until("")
        assert "master br-t" in bench.ip("link show dev t0")
    assert bench.everything() == before


async def test_a_persistent_device_under_another_name_is_left_bare(bench):
    bench.ip("tuntap add t0 mode tap")
    attachment = bench.attachment()
    async with kept(attachment):
        bench.states.clear()
        bench.ip("link set t0 down name other")
        await bench.until("")
        other = bench.ip("-d addr show dev other")
        assert "mtu 1500" in other
        assert "master" not in other
    assert "br-t" not in bench.everything()


async def test_faults_that_stop_a_repair_are_one_line(bench):
    wish = replace(WISH, addresses=(*WISH.addresses, ip_interface("10.8.0.1/24")))
    attachment = bench.attachment(wish=wish)
    async with kept(attachment):
        bench.states.clear()
        bench.ip("link add other type bridge")
        bench.ip("link del br-t")
        bench.ip("addr add 10.9.0.9/24 dev other")
        bench.ip("addr add 10.8.0.9/24 dev other")
        bench.ip("link del t0")
        async with asyncio.timeout(5.0):
            while not any("10.8.0.1/24" in state for state in bench.states):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (trouble,) = {state for state in bench.states if "already on other" in state}
        assert "\n" not in trouble
        assert "10.9.0.1/24" in trouble
        bench.ip("link del other")
        await bench.until("")


async def test_losses_in_a_row_are_repaired_ever_later(bench):
    """With the least jitter the delays are 0.2, 0.2, 0.4 s: each loss is told, then the delay, then the repair."""
    attachment = bench.attachment()
    took = []
    async with kept(attachment):
        for _ in range(3):
            bench.states.clear()
            bench.ip("link del t0")
            began = clock.now()
            await bench.until("")
            took.append(clock.now() - began)
    assert took[0] >= 0.2
    assert took[2] >= 0.4


async def test_a_name_that_somebody_took_is_asked_for_again(bench):
    attachment = bench.attachment()
    async with kept(attachment):
        bench.states.clear()
        bench.ip("link del t0")
        bench.ip("link add t0 type bridge")
        await bench.until("t0: exists and is no TUN or TAP device (bridge); choose another name")
        assert attachment.device is None
        bench.ip("link del t0")
        await bench.until("")


async def test_the_mtu_that_somebody_sets_is_followed(bench):
    attachment = bench.attachment()
    async with kept(attachment):
        bench.ip("link set t0 mtu 1300")
        async with asyncio.timeout(5.0):
            while attachment.mtu != 1300:  # noqa: ASYNC110 (a change of the MTU tells nobody)
                await asyncio.sleep(0.01)
        assert bench.tunnel.max_packet == 1300 + ETHERNET_BYTES


async def test_a_device_that_somebody_else_configures_is_not_watched_for_up(bench):
    attachment = bench.attachment(InterfaceConfig(name="t0", mode="tun", on_loss="stop"), wish=None)
    async with kept(attachment) as task:
        bench.ip("link set t0 up")
        bench.ip("link set t0 mtu 1280 down")
        async with asyncio.timeout(5.0):
            while attachment.mtu != 1280:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not task.done()


async def test_a_device_that_persists_is_left_bare(bench):
    attachment = bench.attachment(replace(TAP, persist=True))
    async with kept(attachment):
        bench.states.clear()
        bench.ip("link del t0")
        await bench.until("")
    assert "persist on" in bench.ip("-d link show dev t0")
    assert "br-t" not in bench.everything()


async def test_a_stop_at_any_moment_of_a_repair_leaves_nothing(bench):
    chance = random.Random(3)
    before = bench.everything()
    for _ in range(10):
        attachment = bench.attachment()
        async with kept(attachment):
            bench.states.clear()
            bench.ip("link set t0 down")
            # From the loss to a little after the repair, which waits 0.2 s in between.
            await asyncio.sleep(chance.choice((0.0, 0.2)) + chance.uniform(0, 0.03))
        assert bench.everything() == before


async def test_a_kernel_that_cannot_be_watched_ends_the_run_in_one_line(bench):
    attachment = bench.attachment()
    await attachment.open()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
        with pytest.raises(KernelError, match="Too many open files"):
            await attachment.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
        await attachment.close()
