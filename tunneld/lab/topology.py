"""Hosts, ready joined. Outside addresses are those reserved for documentation, so nothing real can be meant."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tunneld.lab import network
from tunneld.lab.host import Host

RUN = Path("/run")  # private to the sandbox, so that not even a kill -9 leaves a file


class Lab:
    """Makes hosts and ends them, the youngest first. `hosts` by name, in the order they were made."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.hosts: dict[str, Host] = {}
        self._directory = directory
        self._stack = stack

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Lab]:
        """A lab without hosts. Call `sandbox.enter` before. Raises OSError."""
        with tempfile.TemporaryDirectory(prefix="lab-", dir=RUN) as directory:
            async with AsyncExitStack() as stack:
                yield cls(Path(directory), stack)

    def host(self, name: str) -> Host:
        """A new host. Raises OSError."""
        host = Host.create(name, self._directory / name)
        self._stack.push_async_callback(host.close)
        self.hosts[name] = host
        return host


@dataclass(frozen=True, slots=True)
class Pair:
    """left eth0 ── eth0 right: 192.0.2.1 and .2, 2001:db8::1 and ::2."""

    left: Host
    right: Host
    left_v4 = "192.0.2.1"
    left_v6 = "2001:db8::1"
    right_v4 = "192.0.2.2"
    right_v6 = "2001:db8::2"


async def pair(lab: Lab) -> Pair:
    """Two hosts on one cable."""
    hosts = Pair(lab.host("left"), lab.host("right"))
    await network.cable(hosts.left, "eth0", hosts.right, "eth0")
    await _give(hosts.left, "eth0", hosts.left_v4, hosts.left_v6)
    await _give(hosts.right, "eth0", hosts.right_v4, hosts.right_v6)
    return hosts


@dataclass(frozen=True, slots=True)
class Routed:
    """left eth0 ── west router east ── eth0 right.

    The left wire is 192.0.2.0/24 and 2001:db8:1::/64, the right one 198.51.100.0/24 and 2001:db8:2::/64;
    the router is .1 and ::1 on both.
    """

    left: Host
    router: Host
    right: Host
    left_v4 = "192.0.2.2"
    left_v6 = "2001:db8:1::2"
    right_v4 = "198.51.100.2"
    right_v6 = "2001:db8:2::2"
    west_v4 = "192.0.2.1"
    west_v6 = "2001:db8:1::1"
    east_v4 = "198.51.100.1"
    east_v6 = "2001:db8:2::1"


async def routed(lab: Lab) -> Routed:
    """Two hosts with a router between them: the place of a relay, and of what happens on the way."""
    hosts = Routed(lab.host("left"), lab.host("router"), lab.host("right"))
    await network.cable(hosts.left, "eth0", hosts.router, "west")
    await network.cable(hosts.router, "east", hosts.right, "eth0")
    await _give(hosts.left, "eth0", hosts.left_v4, hosts.left_v6)
    await _give(hosts.right, "eth0", hosts.right_v4, hosts.right_v6)
    await network.give(hosts.router, "west", f"{hosts.west_v4}/24", f"{hosts.west_v6}/64")
    await network.give(hosts.router, "east", f"{hosts.east_v4}/24", f"{hosts.east_v6}/64")
    network.forward(hosts.router)
    for host, gateways in (
        (hosts.left, (hosts.west_v4, hosts.west_v6)),
        (hosts.right, (hosts.east_v4, hosts.east_v6)),
    ):
        await network.route(host, "default", gateways[0])
        await network.route(host, "::/0", gateways[1])
    return hosts


async def lan(lab: Lab, gateway: Host, members: Mapping[str, Sequence[str]], bridge: str = "br0") -> None:
    """A LAN behind `gateway`: its `bridge`, and a host for each of `members` (name to addresses) with eth0 on it."""
    for name, addresses in members.items():
        member = lab.host(name)
        await network.cable(gateway, name, member, "eth0")
        await network.give(member, "eth0", *addresses)
    await network.bridge(gateway, bridge, *members)


async def _give(host: Host, link: str, v4: str, v6: str) -> None:
    await network.give(host, link, f"{v4}/24", *([f"{v6}/64"] if network.HAS_IPV6 else []))
