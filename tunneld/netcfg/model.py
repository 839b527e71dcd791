"""What the kernel has (`Observed`) and what a tunnel wants of it (`Wish`). Pure: values only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunneld.config import Config

Cidr = IPv4Interface | IPv6Interface
Prefix = IPv4Network | IPv6Network

PROTOCOL = 250
"""Tags our routes (rtm_protocol) and our addresses (IFA_PROTO): what carries it may be swept."""

ROUTE_METRIC = {4: 0, 6: 1024}
"""The metric that the kernel gives a route that names none, by IP version."""

IPV6_MIN_MTU = 1280
"""Below it the kernel ends IPv6 on a link and drops its IPv6 addresses (RFC 8200, section 5)."""


class KernelError(Exception):
    """The kernel refused a change or an answer. `str()` is one line; `errno` is the kernel's, 0 if it gave none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface. `kind` is "tun" for TUN and TAP alike, "bridge", "veth", …, "" for hardware.

    `mtu` in bytes, without the Ethernet header; `txqueuelen` in packets; `address` is the MAC address in lower
    case, "" without one; `state` is "up" or "down" as the administrator set it; `master` names the bridge.
    """

    index: int
    name: str
    kind: str
    mtu: int
    txqueuelen: int
    address: str = ""
    state: str = "down"
    mode: str = ""  # "tun" or "tap" where kind is "tun"
    persistent: bool = False
    master: str = ""
    alias: str = ""
    addrgenmode: str = ""  # how the kernel makes its fe80:: address: eui64, none, stable_secret, random

    @classmethod
    def fresh(cls, name: str, mode: str) -> Link:
        """What `ip tuntap add` makes, before anything is set; its MAC address is not known yet."""
        return cls(0, name, "tun", mtu=1500, txqueuelen=500 if mode == "tun" else 1000, mode=mode)


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a link. `network` is what it makes reachable there: the peer's on a point-to-point link."""

    link: str
    address: Cidr
    network: Prefix
    protocol: int = 0
    flags: int = 0  # those IFA_F_* that an administrator can set


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `link` is "" where there is none or more than one (blackhole, multipath)."""

    destination: Prefix
    link: str
    gateway: str = ""
    metric: int = 0
    protocol: int = 0

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via}{f' dev {self.link}' if self.link else ''}"


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at one network namespace."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def ports(self, bridge: str) -> set[str]:
        """The names of the links that are ports of `bridge`."""
        return {link.name for link in self.links if link.master == bridge}

    def on(self, link: str) -> Iterator[Address]:
        """The addresses of a link."""
        return (address for address in self.addresses if address.link == link)

    @property
    def tags_addresses(self) -> bool:
        """Whether this kernel keeps IFA_PROTO (Linux 5.18): it then tags some address of its own, ::1 for one."""
        return any(address.protocol for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one configuration wants of the kernel. None leaves what the kernel has."""

    name: str
    interface: str
    mode: str
    addresses: tuple[Cidr, ...] = ()
    allowed: tuple[Prefix, ...] = ()  # routes that follow from allowed_ips
    listed: tuple[Prefix, ...] = ()  # [network] routes
    mtu: int | None = None
    mac: str | None = None
    txqueuelen: int | None = None
    bridge: str | None = None
    netns: str | None = None
    file: str = ""  # where an operator's fault is to be mended

    @property
    def holder(self) -> str:
        """The link that carries the addresses and the routes: the bridge if there is one."""
        return self.bridge or self.interface

    @property
    def alias(self) -> str:
        """The ifalias of a bridge that we made: it says whose it is."""
        return f"tunneld:{self.name}"

    @property
    def routes(self) -> tuple[Prefix, ...]:
        """Every route once; not those that the kernel makes by itself for our addresses."""
        connected = [address.network for address in self.addresses]
        wanted = dict.fromkeys((*self.allowed, *self.listed))
        return tuple(prefix for prefix in wanted if not any(_inside(prefix, network) for network in connected))

    @classmethod
    def from_config(cls, config: Config) -> Wish:
        """/0 in allowed_ips admits packets, and makes no route."""
        interface = config.interface
        return cls(
            name=config.name,
            interface=interface.name,
            mode=interface.mode,
            addresses=interface.addresses,
            allowed=tuple(prefix for peer in config.peers for prefix in peer.allowed_ips if prefix.prefixlen),
            listed=config.network.routes,
            mtu=interface.mtu,
            mac=interface.mac.lower() if interface.mac else None,
            txqueuelen=interface.txqueuelen,
            bridge=interface.bridge,
            netns=interface.netns,
            file=str(config.path or ""),
        )


def _inside(prefix: Prefix, network: Prefix) -> bool:
    if isinstance(prefix, IPv4Network):
        return isinstance(network, IPv4Network) and prefix.subnet_of(network)
    return isinstance(network, IPv6Network) and prefix.subnet_of(network)
