"""In a real namespace: what is applied is what was wished, and whatever fails, everything is as before.

p1 ── p0 ══ br0 ══ t0        br0 and its port p0 where the scenario says so; t0 is the tunnel's device
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network

import pytest

from tunneld.edge import netns
from tunneld.edge.device import Device
from tunneld.netcfg.apply import apply, clear
from tunneld.netcfg.journal import Journal
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.model import KernelError, Wish
from tunneld.netcfg.operation import AddressAdd, LinkSet
from tunneld.netcfg.plan import plan
from tunneld.proto.errors import ConfigErrors, DeviceError

CIDRS = ("192.168.7.1/24", "fd00:5::1/64")
PREFIXES = ("10.20.0.0/16", "fd00:20::/64")


@dataclass(frozen=True)
class Scenario:
    """What `ip` makes beforehand, and what the tunnel then wants."""

    mode: str
    before: tuple[str, ...] = ()
    settles: str = ""  # a link that gets a link-local address by itself, once it has a carrier
    mtu: int = 1400
    txqueuelen: int | None = None
    mac: str | None = None
    bridge: str | None = None

    @property
    def wish(self) -> Wish:
        return Wish(
            "office",
            "t0",
            self.mode,
            tuple(map(ip_interface, CIDRS)) if self.mtu >= 1280 else (ip_interface(CIDRS[0]),),
            tuple(map(ip_network, PREFIXES)) if self.mtu >= 1280 else (ip_network(PREFIXES[0]),),
            mtu=self.mtu,
            txqueuelen=self.txqueuelen,
            mac=self.mac,
            bridge=self.bridge,
        )


OWN_MAC = "02:00:00:00:00:99"
FOREIGN = ("address add 10.77.0.1/24 dev t0", "address add fd00:77::1/64 dev t0 nodad", "link set t0 mtu 1450")
PORT = (
    "link add br0 type bridge",
    "link add p0 type veth peer name p1",
    "link set p0 addrgenmode none",
    "link set p1 addrgenmode none",
    "link set p0 master br0 up",
    "link set p1 up",
)

SCENARIOS = {
    "tun": Scenario("tun", txqueuelen=77),
    "tap": Scenario("tap", mac=OWN_MAC),
    "persistent tun": Scenario("tun", ("tuntap add t0 mode tun", *FOREIGN), txqueuelen=77),
    "persistent tun, up": Scenario("tun", ("tuntap add t0 mode tun", "link set t0 up", *FOREIGN), settles="t0"),
    "persistent tun, small": Scenario("tun", ("tuntap add t0 mode tun", *FOREIGN), mtu=1000),
    "persistent tun, up, small": Scenario(
        "tun", ("tuntap add t0 mode tun", "link set t0 up", *FOREIGN), settles="t0", mtu=1000
    ),
    "persistent tap": Scenario("tap", ("tuntap add t0 mode tap", *FOREIGN), mac=OWN_MAC),
    "bridge made": Scenario("tap", bridge="br0"),
    "bridge joined": Scenario(
        "tap", (*PORT, "link set br0 up", "address add fd00:78::1/64 dev br0 nodad"), settles="br0", bridge="br0"
    ),
    "bridge joined, small": Scenario(
        "tap", (*PORT, "link set br0 up", "address add fd00:78::1/64 dev br0"), settles="br0", bridge="br0", mtu=1000
    ),
    "bridge joined, was down": Scenario("tap", (*PORT, "address add fd00:78::1/64 dev br0 nodad"), bridge="br0"),
    "bridge joined by a persistent tap": Scenario(
        "tap",
        (*PORT, "link set br0 up", "tuntap add t0 mode tap", *FOREIGN),
        settles="br0",
        bridge="br0",
        mac=OWN_MAC,
    ),
}


@pytest.fixture(params=SCENARIOS.values(), ids=SCENARIOS.keys())
def scenario(request):
    return request.param


class Refusing(Kernel):
    """A kernel that refuses the change number `refuse`, counted from 0; or makes it and then is cancelled."""

    refuse = -1
    cancel = False

    async def execute(self, operation):
        self.refuse -= 1
        if self.refuse != -1:
            await super().execute(operation)
        elif self.cancel:
            await super().execute(operation)
            raise asyncio.CancelledError
        else:
            await super().execute(LinkSet("nowhere", "mtu", 1400, 1500))


async def test_applied_the_plan_is_empty_and_undone_nothing_has_changed(scenario, space, kernel, tmp_path):
    journal = Journal(tmp_path, "office")
    async with prepared(scenario, space):
        before = snapshot(space)
        applied = await apply(kernel, scenario.wish, journal)
        assert plan(scenario.wish, await kernel.observe()) == ()
        changed = snapshot(space)
        assert changed != before
        for prefix in scenario.wish.routes:
            assert f"{prefix} dev {scenario.wish.holder} table main proto 250" in changed
        assert journal.read() is not None
        await applied.undo()
        await becomes(space, before)
        assert not journal.path.exists()


async def test_a_step_that_is_refused_leaves_everything_as_before(scenario, space, tmp_path):
    await fail_at_every_step(scenario, space, tmp_path, KernelError)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_step_that_is_cancelled_leaves_everything_as_before(scenario, space, tmp_path):
    await fail_at_every_step(scenario, space, tmp_path, asyncio.CancelledError)


async def fail_at_every_step(scenario: Scenario, space, run_dir, failure: type[BaseException]):
    journal = Journal(run_dir, "office")
    async with prepared(scenario, space), Refusing.open(space.fd) as kernel:
        steps = len(plan(scenario.wish, await kernel.observe()))
        kernel.cancel = failure is asyncio.CancelledError
        before = snapshot(space)
        for number in range(steps):
            kernel.refuse = number
            with pytest.raises(failure):
                await apply(kernel, scenario.wish, journal)
            await becomes(space, before)
            assert not journal.path.exists()
        kernel.refuse = -1
        await apply(kernel, scenario.wish, journal)


async def test_a_bridge_without_ports_is_joined_last(space, tmp_path):
    # Once it had a port it never looks quite as before (carrier, bridge id), so nothing may fail after that.
    scenario = Scenario("tap", ("link add br0 type bridge", "link set br0 up"), settles="br0", bridge="br0")
    journal = Journal(tmp_path, "office")
    async with prepared(scenario, space), Refusing.open(space.fd) as kernel:
        steps = len(plan(scenario.wish, await kernel.observe()))
        before, of_bridge = snapshot(space), essentials(space, "br0")
        for number in range(steps):
            kernel.refuse = number
            with pytest.raises(KernelError):
                await apply(kernel, scenario.wish, journal)
            await becomes(space, before)
        kernel.refuse = -1
        applied = await apply(kernel, scenario.wish, journal)
        assert essentials(space, "br0") != of_bridge
        await applied.undo()
        assert essentials(space, "br0") == of_bridge


async def test_a_bridge_that_had_no_link_local_address_gets_none_from_us(space, kernel, tmp_path):
    commands = ("link add br0 type bridge", "link add p0 type veth peer name p1", "link set p0 master br0")
    scenario = Scenario("tap", (*commands, "link set br0 up"), bridge="br0")
    async with prepared(scenario, space):
        before = snapshot(space)
        assert "NO-CARRIER" in space.ip("link show br0")
        applied = await apply(kernel, scenario.wish, Journal(tmp_path, "office"))
        await until(lambda: "fe80" in space.ip("address show br0"))
        await applied.undo()
        await becomes(space, before)


async def test_a_change_that_does_not_last_is_rolled_back(space, tmp_path):
    class Forgetful(Kernel):
        async def execute(self, operation):
            if operation.command.startswith("ip route add"):
                return
            await super().execute(operation)

    async with prepared(SCENARIOS["tun"], space), Forgetful.open(space.fd) as kernel:
        before = snapshot(space)
        with pytest.raises(KernelError, match=r"ip route add 10\.20\.0\.0/16 .*the kernel agreed, but it is not so"):
            await apply(kernel, SCENARIOS["tun"].wish, Journal(tmp_path, "office"))
        await becomes(space, before)


async def test_what_somebody_else_made_at_the_same_moment_stays(space, tmp_path):
    class Raced(Kernel):
        async def execute(self, operation):
            if isinstance(operation, AddressAdd):
                space.ip(f"address add {operation.address} dev t0")
            await super().execute(operation)

    async with prepared(SCENARIOS["tun"], space), Raced.open(space.fd) as kernel:
        with pytest.raises(KernelError, match=r"ip address add 192\.168\.7\.1/24 dev t0: "):
            await apply(kernel, SCENARIOS["tun"].wish, Journal(tmp_path, "office"))
        assert "192.168.7.1/24" in space.ip("address show t0")


async def test_something_foreign_in_the_way_touches_nothing(space, kernel, tmp_path):
    before_us = (*PORT, "address add 192.168.7.9/24 dev p1", "route add 10.20.0.0/16 dev p1")
    scenario = Scenario("tun", before_us)
    async with prepared(scenario, space):
        before = snapshot(space)
        with pytest.raises(ConfigErrors, match=r"192\.168\.7\.1/24 already on p1 as 192\.168\.7\.9/24") as caught:
            await apply(kernel, scenario.wish, Journal(tmp_path, "office"))
        assert len(caught.value.errors) == 2
        await becomes(space, before)
        assert list(tmp_path.iterdir()) == []


async def test_without_a_device_nothing_is_done(space, kernel, tmp_path):
    with pytest.raises(DeviceError):
        await apply(kernel, SCENARIOS["tun"].wish, Journal(tmp_path, "office"))


async def test_the_device_may_vanish_before_the_undo(space, kernel, tmp_path, caplog):
    scenario = SCENARIOS["bridge made"]
    before = snapshot(space)
    async with prepared(scenario, space):
        applied = await apply(kernel, scenario.wish, Journal(tmp_path, "office"))
    assert "br0" in space.ip("link")
    await applied.undo()
    await becomes(space, before)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_device_that_was_made_anew_is_configured_again(space, kernel, tmp_path):
    wish = SCENARIOS["tun"].wish
    before = snapshot(space)
    for _ in range(3):
        async with prepared(SCENARIOS["tun"], space):
            await apply(kernel, wish, Journal(tmp_path, "office"))
            assert "inet 192.168.7.1/24" in space.ip("address show t0")
    await becomes(space, before)


async def test_a_bridge_that_others_use_by_now_is_left_alone_and_said(space, kernel, tmp_path, caplog):
    async with prepared(SCENARIOS["bridge made"], space):
        applied = await apply(kernel, SCENARIOS["bridge made"].wish, Journal(tmp_path, "office"))
        space.ip("link add p0 type veth peer name p1")
        space.ip("link set p0 master br0")
        await applied.undo()
    assert "br0 has ports that are not ours (p0): left alone" in caplog.messages
    shown = space.ip("address show br0")
    assert ",UP" in shown
    assert "192.168.7.1" not in shown


async def test_each_change_is_logged_as_its_command(space, kernel, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    wish = replace(SCENARIOS["tun"].wish, netns="work")
    async with prepared(SCENARIOS["tun"], space):
        applied = await apply(kernel, wish, Journal(tmp_path, "office"))
        await applied.undo()
    assert caplog.messages[0] == "ip -n work link set dev t0 txqueuelen 77"
    assert "ip -n work route add 10.20.0.0/16 dev t0 proto 250" in caplog.messages
    assert caplog.messages[-1] == "ip -n work link set dev t0 txqueuelen 500"


@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("name", ["tun", "persistent tun", "bridge made", "bridge joined by a persistent tap"])
async def test_what_a_kill_left_is_swept_and_nothing_else(name, space, kernel, tmp_path):
    scenario = SCENARIOS[name]
    journal = Journal(tmp_path, "office")
    async with prepared(scenario, space):
        with_device = anonymous(snapshot(space))
    before = snapshot(space)
    await killed_after_apply(scenario, space, tmp_path)
    assert journal.read() is not None
    left = snapshot(space)
    cleared = await clear(kernel, "office", "t0", None, journal)
    assert cleared.clean
    assert cleared.spared == ()
    await becomes(space, before)
    assert bool(cleared.commands) == (left != before)
    assert not journal.path.exists()
    # And the next start, without any `tunneld down` in between.
    await killed_after_apply(scenario, space, tmp_path)
    async with prepared(replace(scenario, before=(), settles=""), space):
        applied = await apply(kernel, scenario.wish, journal)
        await applied.undo()
        await becomes(space, with_device, anonymous)


async def test_the_tags_are_enough_where_the_journal_is_lost(space, kernel, tmp_path):
    scenario = Scenario("tap", ("tuntap add t0 mode tap",), bridge="br0")
    async with prepared(scenario, space):
        pass
    await killed_after_apply(scenario, space, tmp_path)
    (tmp_path / "office.undo").unlink()
    assert "192.168.7.1" in space.ip("address")
    cleared = await clear(kernel, "office", "t0", None, Journal(tmp_path, "office"))
    assert cleared.clean
    assert "192.168.7.1" not in space.ip("address")
    assert "proto 250" not in space.ip("route show table all")
    assert "br0" not in space.ip("link")
    assert "t0" in space.ip("link")


async def test_nothing_to_sweep_is_no_fault(space, kernel, tmp_path):
    cleared = await clear(kernel, "office", None, None, Journal(tmp_path, "office"))
    assert (cleared.commands, cleared.spared, cleared.clean) == ((), (), True)


@asynccontextmanager
async def prepared(scenario: Scenario, space):
    """The network as it is before the tunnel, and the device open."""
    for command in scenario.before:
        space.ip(command)
    device = Device.open("t0", scenario.mode, namespace=space.fd)
    try:
        if scenario.mode == "tun" and not device.persistent:
            # What its first "up" makes of it; it takes that along when it is closed.
            space.ip("link set dev t0 addrgenmode random")
        if scenario.settles:
            await until(lambda: "fe80" in space.ip(f"address show {scenario.settles}"))
        await stable(space)
        yield
    finally:
        device.close()
        await detached(space)


async def killed_after_apply(scenario: Scenario, space, run_dir):
    """Another process opens the device, applies the wish and is killed."""
    argv = [sys.executable, "-c", KILLED, pickle.dumps(scenario.wish).hex(), str(run_dir)]
    child = netns.call_in(space.fd, lambda: subprocess.Popen(argv, stdout=subprocess.PIPE))
    with child:
        assert child.stdout.readline() == b"applied\n"
        child.kill()
    await detached(space)


async def detached(space):
    """Wait until the kernel has seen that nobody holds the device any more: it may be a moment late."""
    await until(lambda: not re.search(r" t0: <(?!NO-CARRIER)\S*\bUP\b", space.ip("link")))
    await stable(space)


KILLED = """
import asyncio, pickle, sys
from pathlib import Path

from tunneld.edge import netns
from tunneld.edge.device import Device
from tunneld.netcfg.apply import apply
from tunneld.netcfg.journal import Journal
from tunneld.netcfg.kernel import Kernel


async def main():
    wish = pickle.loads(bytes.fromhex(sys.argv[1]))
    device = Device.open(wish.interface, wish.mode)
    async with Kernel.open() as kernel:
        await apply(kernel, wish, Journal(Path(sys.argv[2]), wish.name))
        print("applied", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
"""

# Timers run; a queueing discipline appears at the first "up" and stays; duplicate address detection takes its time;
# nobody but the kernel can call an address stable-privacy.
VOLATILE = re.compile(r"\b\w+_timer +[\d.]+|qdisc \w+| tentative| stable-privacy")


def snapshot(space) -> str:
    """Everything that must be as before, in iproute2's words."""
    both = space.ip("-d -batch -", "address show\nlink show\nroute show table all\nrule show\n")
    six = space.ip("-d -6 -batch -", "route show table all\nrule show\n")
    # Among IPv6 routes of one prefix and metric the order is that of their making, and means nothing.
    return VOLATILE.sub("", both + "".join(sorted(six.splitlines(keepends=True))))


async def stable(space) -> None:
    """Wait until what the kernel does in the background is done: it adds local routes a moment late."""
    looks: list[str] = []

    def quiet() -> bool:
        looks.append(snapshot(space))
        return len(looks) >= 5 and len(set(looks[-5:])) == 1

    await until(quiet)


async def becomes(space, wanted: str, form=str) -> None:
    """Assert that the snapshot is as wanted, at once or soon."""
    for _ in range(50):
        if form(snapshot(space)) == wanted:
            break
        await asyncio.sleep(0.02)
    assert form(snapshot(space)) == wanted


def anonymous(text: str) -> str:
    """Without what differs between two devices of one name: index, MAC address."""
    return re.sub(r"^\d+:|(?<=link/ether )\S+", "", text, flags=re.M)


def essentials(space, link: str) -> list[str]:
    """MTU, MAC address and addresses of a link."""
    return re.findall(r"mtu \d+|link/ether \S+|inet6? \S+", space.ip(f"address show {link}"))


async def until(good) -> None:
    """Wait until it is good, for at most 5 s."""
    for _ in range(500):
        if good():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError
