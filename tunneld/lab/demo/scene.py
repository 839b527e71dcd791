"""What the scenes of the demo have in common: failures that a step may have, keys, two daemons, a row of pings."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tunneld.lab.daemon import Daemon, DaemonEndedError
from tunneld.lab.demo.screen import Screen, Step
from tunneld.lab.host import Host
from tunneld.lab.ping import ping
from tunneld.lab.topology import Pair
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.model import KernelError, Link, Observed

PINGS = 5
PATIENCE = 10.0  # seconds for a tunnel to come up
KEY = "own.key"  # beside the configurations of each host


class CheckError(Exception):
    """A step of the demo saw something else than it should have. `str()` is one line."""


FAILURES = (CheckError, DaemonEndedError, KernelError, OSError)
"""What a step may fail with, TimeoutError included; anything else is a bug and must be loud."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The public keys of the two ends. The private one of each is in its file KEY, and nowhere else."""

    left: str
    right: str


async def make_keys(screen: Screen, hosts: Pair) -> Keys:
    """A key pair for each host, by the commands that an operator gives."""
    with screen.step("keys") as step:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(_make_key(host)) for host in (hosts.left, hosts.right)]
        keys = Keys(*(each.result() for each in made))
        step.result = f"tunneld genkey, pubkey: left is {keys.left[:8]}…, right is {keys.right[:8]}…"
    return keys


async def _make_key(host: Host) -> str:
    tunneld, key = shlex.join([sys.executable, "-m", "tunneld"]), shlex.quote(str(host.run_dir / KEY))
    done = await host.run(["sh", "-ec", f"umask 077; {tunneld} genkey >{key}; {tunneld} pubkey <{key}"])
    expect(done.code == 0, f"no key for {host.name}: {done.output}")
    return done.output.strip()


async def start(screen: Screen, name: str, configs: Sequence[tuple[Host, str]]) -> list[Daemon]:
    """Start a daemon on each host and wait until all are ready."""
    with screen.step("daemons") as step:
        daemons = [Daemon.start(host, text, name=name) for host, text in configs]
        for daemon in daemons:
            step.progress(f"waiting for {daemon.host.name}: tunneld run {daemon.config.name}")
            await daemon.wait_ready()
        who = ", ".join(f"{daemon.child.pid} on {daemon.host.name}" for daemon in daemons)
        step.result = f"tunneld run {name}.toml: pid {who}"
    return daemons


async def connected(step: Step, daemons: Sequence[Daemon]) -> None:
    """Wait until the daemons say that the tunnel is up; the link of the first is the result of the step."""
    found = []
    for daemon in daemons:
        step.progress(f"waiting for {daemon.host.name}")
        found.append(await daemon.wait_state("up", PATIENCE))
    cipher = found[0]["cipher"] or "in clear"
    step.result = f"{found[0]['peers'][0]['link']}, up on both, {cipher}"


async def pinged(screen: Screen, sender: Host, address: str) -> None:
    """Ping `address`, and show each round trip as it is measured."""
    with screen.step("ping") as step:
        times: list[float] = []
        for _ in range(PINGS):
            times += (await ping(sender, address, count=1, timeout=2.0)).times
            step.progress("  ".join(f"{ms(seconds)} ms" for seconds in times))
            await asyncio.sleep(0.05)
        expect(len(times) == PINGS, f"{address} answered only {len(times)} of {PINGS} pings from {sender.name}")
        step.result = (
            f"{sender.name} → {address}: {len(times)} of {PINGS}, "
            f"{ms(min(times))} / {ms(sum(times) / len(times))} / {ms(max(times))} ms (min/mean/max)"
        )


async def reached(sender: Host, address: str) -> None:
    """Raises CheckError unless `address` answers one ping."""
    answer = await ping(sender, address, count=1, timeout=3.0)
    expect(not answer.lost, f"{address} does not answer {sender.name}")


async def observe(host: Host) -> Observed:
    """What the kernel of the host has."""
    async with Kernel.open(host.namespace) as kernel:
        return await kernel.observe()


def link_of(observed: Observed, name: str) -> Link:
    """The link that is called so. Raises CheckError: there is none."""
    for link in observed.links:
        if link.name == name:
            return link
    raise CheckError(f"there is no interface {name}")


def expect(holds: bool, otherwise: str) -> None:
    """Raises CheckError unless it `holds`."""
    if not holds:
        raise CheckError(otherwise)


def ms(seconds: float) -> str:
    """Milliseconds as text."""
    return f"{seconds * 1000:.2f}"
