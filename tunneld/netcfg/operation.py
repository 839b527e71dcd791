"""Every change that we make to the kernel, one record each: the `ip` command that it equals, and its inverse.

Pure. A record goes to JSON and back, for the journal that outlives a kill -9.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from ipaddress import ip_interface, ip_network
from typing import Any

from tunneld.netcfg.model import PROTOCOL, Cidr, Prefix

IFA_F_NODAD = 0x02
IFA_F_HOMEADDRESS = 0x10
IFA_F_MANAGETEMPADDR = 0x100
IFA_F_NOPREFIXROUTE = 0x200
IFA_F_MCAUTOJOIN = 0x400

ADDRESS_FLAGS = {
    IFA_F_NODAD: "nodad",
    IFA_F_HOMEADDRESS: "home",
    IFA_F_MANAGETEMPADDR: "mngtmpaddr",
    IFA_F_NOPREFIXROUTE: "noprefixroute",
    IFA_F_MCAUTOJOIN: "autojoin",
}
"""The flags that an administrator can give an address, and their words in `ip address add`."""


@dataclass(frozen=True, slots=True)
class LinkSet:
    """Set one attribute: mtu, txqueuelen, address, alias, addrgenmode or state, from `was` to `value`.

    `was` is "" where the kernel and not a person chose it.
    """

    link: str
    attribute: str
    value: int | str
    was: int | str

    @property
    def command(self) -> str:
        setting = self.value if self.attribute == "state" else f"{self.attribute} {self.value}"
        return f"ip link set dev {self.link} {setting}"

    @property
    def inverse(self) -> LinkSet:
        return LinkSet(self.link, self.attribute, self.was, self.value)


@dataclass(frozen=True, slots=True)
class BridgeAdd:
    link: str
    alias: str

    @property
    def command(self) -> str:
        return f"ip link add {self.link} type bridge"

    @property
    def inverse(self) -> BridgeDel:
        return BridgeDel(self.link, self.alias)


@dataclass(frozen=True, slots=True)
class BridgeDel:
    """`alias` says whose bridge it must be; `kernel.execute` does not look, `plan.sweep` does."""

    link: str
    alias: str

    @property
    def command(self) -> str:
        return f"ip link del {self.link} type bridge"


@dataclass(frozen=True, slots=True)
class PortJoin:
    link: str
    bridge: str

    @property
    def command(self) -> str:
        return f"ip link set dev {self.link} master {self.bridge}"

    @property
    def inverse(self) -> PortLeave:
        return PortLeave(self.link, self.bridge)


@dataclass(frozen=True, slots=True)
class PortLeave:
    link: str
    bridge: str

    @property
    def command(self) -> str:
        return f"ip link set dev {self.link} nomaster"


@dataclass(frozen=True, slots=True)
class AddressAdd:
    """The command does not tell the protocol: iproute2 before 6.3 does not know the word there."""

    link: str
    address: Cidr
    flags: int = 0
    protocol: int = PROTOCOL

    @property
    def command(self) -> str:
        words = [word for bit, word in ADDRESS_FLAGS.items() if self.flags & bit]
        return " ".join([f"ip address add {self.address} dev {self.link}", *words])

    @property
    def inverse(self) -> AddressDel:
        return AddressDel(self.link, self.address)


@dataclass(frozen=True, slots=True)
class AddressDel:
    link: str
    address: Cidr

    @property
    def command(self) -> str:
        return f"ip address del {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class LinkLocalFlush:
    """Remove the fe80:: addresses that the kernel gave a link when it got its first carrier from us."""

    link: str

    @property
    def command(self) -> str:
        return f"ip -6 address flush dev {self.link} scope link"


@dataclass(frozen=True, slots=True)
class MulticastDel:
    """Remove the route of all IPv6 multicast, which the kernel makes together with that fe80:: address."""

    link: str

    @property
    def command(self) -> str:
        return f"ip -6 route del multicast ff00::/8 dev {self.link} table local"


@dataclass(frozen=True, slots=True)
class RouteAdd:
    link: str
    destination: Prefix
    protocol: int = PROTOCOL

    @property
    def command(self) -> str:
        return f"ip {_family(self.destination)}route add {self.destination} dev {self.link} proto {self.protocol}"

    @property
    def inverse(self) -> RouteDel:
        return RouteDel(self.link, self.destination, self.protocol)


@dataclass(frozen=True, slots=True)
class RouteDel:
    link: str
    destination: Prefix
    protocol: int = PROTOCOL

    @property
    def command(self) -> str:
        return f"ip {_family(self.destination)}route del {self.destination} dev {self.link} proto {self.protocol}"


Operation = (
    LinkSet
    | BridgeAdd
    | BridgeDel
    | PortJoin
    | PortLeave
    | AddressAdd
    | AddressDel
    | LinkLocalFlush
    | MulticastDel
    | RouteAdd
    | RouteDel
)

_BY_NAME: dict[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        LinkSet,
        BridgeAdd,
        BridgeDel,
        PortJoin,
        PortLeave,
        AddressAdd,
        AddressDel,
        LinkLocalFlush,
        MulticastDel,
        RouteAdd,
        RouteDel,
    )
}


def spell(command: str, netns: str | None) -> str:
    """The command as a person types it for a link in the namespace `netns` (a name, or a path)."""
    if netns is None:
        return command
    if "/" in netns:
        return f"nsenter --net={netns} {command}"
    return f"ip -n {netns} {command.removeprefix('ip ')}"


def to_json(operation: Operation) -> dict[str, Any]:
    """A dict of strings and numbers."""
    fields = {key: value if isinstance(value, int) else str(value) for key, value in asdict(operation).items()}
    return {"operation": type(operation).__name__, **fields}


def from_json(record: dict[str, Any]) -> Operation:
    """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
    fields = dict(record)
    kind = _BY_NAME[fields.pop("operation")]
    if kind in (AddressAdd, AddressDel):
        fields["address"] = ip_interface(fields["address"])
    if "destination" in fields:
        fields["destination"] = ip_network(fields["destination"])
    return kind(**fields)


def _family(destination: Prefix) -> str:
    return "-6 " if destination.version == 6 else ""
