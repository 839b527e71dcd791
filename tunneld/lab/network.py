"""What joins hosts: cables (veth), bridges, addresses, routes. By netlink; nothing here needs `ip`."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv6Address, IPv6Interface, ip_interface
from pathlib import Path

from tunneld.lab.host import Host
from tunneld.netcfg.kernel import Kernel, refusals
from tunneld.netcfg.operation import IFA_F_NODAD, AddressAdd, BridgeAdd, LinkSet, PortJoin

WITHOUT_NEIGHBOURS = ("", "00:00:00:00:00:00")  # what a TUN device and lo have for a MAC
HAS_IPV6 = Path("/proc/sys/net/ipv6").exists()  # absent with ipv6.disable=1 on the kernel's command line


async def cable(one: Host, one_link: str, other: Host, other_link: str) -> None:
    """A veth pair between two hosts, both ends up. Raises KernelError."""
    async with Kernel.open(one.namespace) as kernel:
        peer = {"ifname": other_link, "net_ns_fd": f"/proc/self/fd/{other.namespace}"}
        with refusals(f"ip link add {one_link} type veth peer {other_link} netns {other.name}"):
            await kernel.ipr.link("add", ifname=one_link, kind="veth", peer=peer)
    await set_state(one, one_link, "up")
    await set_state(other, other_link, "up")


async def set_state(host: Host, link: str, state: str) -> None:
    """ "up" or "down"; a cable with one end down has lost its carrier at the other. Raises KernelError."""
    async with Kernel.open(host.namespace) as kernel:
        await kernel.execute(LinkSet(link, "state", state, state))


async def give(host: Host, link: str, *addresses: str) -> None:
    """Addresses with their prefix lengths, on a link that is up; usable when this returns. Raises KernelError."""
    interfaces = [ip_interface(address) for address in addresses]
    async with Kernel.open(host.namespace) as kernel:
        for each in interfaces:
            flags = IFA_F_NODAD if each.version == 6 else 0
            await kernel.execute(AddressAdd(link, each, flags=flags, protocol=0))
    if mac(host, link) not in WITHOUT_NEIGHBOURS:
        for each in interfaces:
            if isinstance(each, IPv6Interface):
                await _wait_solicitable(host, link, each.ip)


async def bridge(host: Host, name: str, *ports: str) -> None:
    """A bridge that is up and has these links as its ports. Raises KernelError."""
    async with Kernel.open(host.namespace) as kernel:
        await kernel.execute(BridgeAdd(name, alias=""))
        await kernel.execute(LinkSet(name, "state", "up", "down"))
        for port in ports:
            await kernel.execute(PortJoin(port, name))


async def route(host: Host, destination: str, gateway: str) -> None:
    """Reach the prefix `destination` by way of `gateway`. Raises KernelError."""
    async with Kernel.open(host.namespace) as kernel:
        with refusals(f"ip route add {destination} via {gateway}"):
            await kernel.ipr.route("add", dst=destination, gateway=gateway)


def forward(host: Host) -> None:
    """Make the host a router, for both families. Raises OSError."""

    def write() -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        if HAS_IPV6:
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    host.call(write)


def neighbours(host: Host) -> dict[str, str]:
    """The IPv4 neighbours that answered ARP: address to MAC."""
    table = host.call(Path("/proc/thread-self/net/arp").read_text)
    rows = [line.split() for line in table.splitlines()[1:]]
    return {row[0]: row[3] for row in rows if int(row[2], 16) & 0x2}  # ATF_COM: the entry is complete


def mac(host: Host, link: str) -> str:
    """The hardware address of a link. Raises OSError."""

    def ask() -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((link, 0))
            address: bytes = sock.getsockname()[4]
        return address.hex(":")

    return host.call(ask)


async def _wait_solicitable(host: Host, link: str, address: IPv6Address, timeout: float = 5.0) -> None:
    """Wait until the host hears who asks for `address`: the kernel joins the group for that a moment later."""
    group = f"ff0200000000000000000001ff{int(address) & 0xFFFFFF:06x}"

    def joined() -> bool:
        rows = Path("/proc/thread-self/net/igmp6").read_text().splitlines()
        return any(row.split()[1:3] == [link, group] for row in rows)

    async with asyncio.timeout(timeout):
        while not host.call(joined):  # noqa: ASYNC110 (the kernel announces it nowhere)
            await asyncio.sleep(0.001)
