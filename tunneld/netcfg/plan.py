"""From a wish and one look at the kernel to the changes between them, each with its way back. Pure.

Theory of operation. Steps stand in the order in which they are made: the device's own attributes, a bridge if there
is none, addresses, up, routes, and the bridge port last. The port comes last because a bridge that had no port never
looks quite as before once it had one (carrier, bridge id), so nothing must be able to fail after it. Once the steps
are made, the same plan is empty: that is how success is verified, and why a repair may be repeated.

What is foreign is never replaced: where it is in the way, `plan` raises every fault at once, and there is no plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunneld.netcfg.model import IPV6_MIN_MTU, ROUTE_METRIC, Cidr, Link, Observed, Prefix, Route, Wish
from tunneld.netcfg.operation import (
    IFA_F_NODAD,
    AddressAdd,
    BridgeAdd,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    Operation,
    PortJoin,
    RouteAdd,
)
from tunneld.proto.errors import ConfigError, ConfigErrors, DeviceError


@dataclass(frozen=True, slots=True)
class Step:
    """One change, and what takes it back, in the order in which that is to be executed."""

    operation: Operation
    undo: tuple[Operation, ...] = ()


def plan(wish: Wish, observed: Observed) -> tuple[Step, ...]:
    """The steps from what is to what is wished; empty when they agree.

    Raises ConfigErrors when something foreign is in the way, DeviceError when the device is not there.
    """
    device = observed.link(wish.interface)
    if device is None:
        raise DeviceError(f"{wish.interface} is not there any more; was it deleted?")
    faults = [ConfigError(wish.file, 0, key, message) for key, message in _faults(wish, device, observed)]
    if faults:
        raise ConfigErrors(faults)
    return (
        *_attributes(wish, device, observed),
        *_bridge(wish, observed),
        *_addresses(wish, observed),
        *_up(wish, device, observed),
        *_routes(wish, observed),
        *_port(wish, device, observed),
    )


def _faults(wish: Wish, device: Link, observed: Observed) -> Iterator[tuple[str, str]]:
    """The key and the message of everything that is in the way."""
    if device.kind != "tun":
        yield "name", f"{device.name} exists and is no TUN or TAP device; choose another name"
    elif device.mode and device.mode != wish.mode:
        yield "mode", f'{device.name} is a {device.mode.upper()} device; write mode = "{device.mode}" or another name'
    if wish.bridge:
        bridge = observed.link(wish.bridge)
        if bridge is not None and bridge.kind != "bridge":
            yield "bridge", f"{wish.bridge} exists and is no bridge; name a bridge, or one that is to be made"
        if device.master not in ("", wish.bridge):
            yield "bridge", f"{device.name} is a port of {device.master}; run: ip link set dev {device.name} nomaster"
    for address in wish.addresses:
        yield from (("addresses", message) for message in _overlaps(wish, address, observed))
    beside, listed = _by_destination(observed.routes), frozenset(wish.listed)
    for prefix in wish.routes:
        key = "routes" if prefix in listed else "allowed_ips"
        yield from ((key, message) for message in _rivals(wish, prefix, beside.get(prefix, ())))


def _overlaps(wish: Wish, address: Cidr, observed: Observed) -> Iterator[str]:
    if address.is_link_local and address.version == 6:
        return  # every link has fe80::/64
    for other in observed.addresses:
        if other.link != wish.holder and _overlap(address.network, other.network):
            form = "" if other.address == address else f" as {other.address}"
            yield f"{address} already on {other.link}{form}; choose another subnet"


def _by_destination(routes: Iterable[Route]) -> dict[Prefix, list[Route]]:
    # Thousands may be wished and thousands be there: each compared with each would take a minute.
    found: defaultdict[Prefix, list[Route]] = defaultdict(list)
    for route in routes:
        found[route.destination].append(route)
    return found


def _rivals(wish: Wish, prefix: Prefix, beside: Iterable[Route]) -> Iterator[str]:
    """Routes that the kernel would not let stand beside ours, or would prefer to it. `beside` has our destination."""
    for route in beside:
        ours = route.link == wish.holder and not route.gateway
        if not ours and route.metric <= ROUTE_METRIC[prefix.version]:
            yield f"there is a route already: {route}; delete it, or take {prefix} out of the configuration"


def _attributes(wish: Wish, device: Link, observed: Observed) -> Iterator[Step]:
    for attribute, value in (("address", _mac(wish, device)), ("txqueuelen", wish.txqueuelen), ("mtu", wish.mtu)):
        was = getattr(device, attribute)
        if value is None or value == was:
            continue
        change = LinkSet(device.name, attribute, value, was)
        lost = attribute == "mtu" and _ends_ipv6(wish, device)
        yield Step(change, (change.inverse, *(_lost_with_ipv6(device, observed) if lost else ())))


def _mac(wish: Wish, device: Link) -> str | None:
    if wish.mac or not wish.bridge or device.persistent or not device.address:
        return wish.mac
    # A bridge takes the lowest address of its ports: with a random one of ours it would change its own, and the
    # host would be deaf until its neighbours have learnt it. fe is local, unicast, and higher than any of a vendor.
    return f"fe{device.address[2:]}"


def _bridge(wish: Wish, observed: Observed) -> Iterator[Step]:
    if wish.bridge and observed.link(wish.bridge) is None:
        made = BridgeAdd(wish.bridge, wish.alias)
        yield Step(made, (made.inverse,))
        yield Step(LinkSet(wish.bridge, "alias", wish.alias, ""))
        yield Step(LinkSet(wish.bridge, "state", "up", "down"))


def _addresses(wish: Wish, observed: Observed) -> Iterator[Step]:
    present = {address.address for address in observed.on(wish.holder)}
    for address in wish.addresses:
        if address not in present:
            # Nobody else can have the address of a tunnel's end, and waiting for that answer delays the tunnel.
            added = AddressAdd(wish.holder, address, IFA_F_NODAD if address.version == 6 else 0)
            yield Step(added, (added.inverse,))


def _up(wish: Wish, device: Link, observed: Observed) -> Iterator[Step]:
    bridge = observed.link(wish.bridge) if wish.bridge else None
    for link in (bridge, device):
        if link is not None and link.state != "up":
            change = LinkSet(link.name, "state", "up", link.state)
            yield Step(change, (change.inverse, *_lost_by_down(wish, link, observed)))


def _lost_by_down(wish: Wish, link: Link, observed: Observed) -> Iterator[Operation]:
    if _ends_ipv6(wish, link):
        return  # the MTU has taken it all before, and its undo comes later
    yield from _ipv6_addresses(link, observed)
    if link.persistent and link.mode == "tun" and link.addrgenmode == "eui64":
        # The first "up" of a device without a MAC address turns it into "random".
        yield LinkSet(link.name, "addrgenmode", link.addrgenmode, "")


def _routes(wish: Wish, observed: Observed) -> Iterator[Step]:
    present = {route.destination for route in observed.routes if route.link == wish.holder and not route.gateway}
    for prefix in wish.routes:
        if prefix not in present:
            added = RouteAdd(wish.holder, prefix)
            yield Step(added, (added.inverse,))


def _port(wish: Wish, device: Link, observed: Observed) -> Iterator[Step]:
    if not wish.bridge or device.master == wish.bridge:
        return
    joined = PortJoin(device.name, wish.bridge)
    bridge = observed.link(wish.bridge)
    yield Step(joined, (joined.inverse, *(_side_effects(wish, bridge, observed) if bridge else ())))


def _side_effects(wish: Wish, bridge: Link, observed: Observed) -> Iterator[Operation]:
    """What the kernel changes on a bridge that gets a port, and does not take back when the port leaves."""
    if not observed.ports(bridge.name):
        # It takes the address of its first port, and is left with 00:00:00:00:00:00 when its last one goes.
        yield LinkSet(bridge.name, "address", bridge.address, "")
    link_local = any(address.address.is_link_local for address in observed.on(bridge.name))
    if bridge.state == "up" and bridge.addrgenmode != "none" and not link_local:
        # It never had a carrier: the first one makes these.
        yield LinkLocalFlush(bridge.name)
        yield MulticastDel(bridge.name)
    if _ends_ipv6(wish, bridge):
        yield from _lost_with_ipv6(bridge, observed)


def _ends_ipv6(wish: Wish, link: Link) -> bool:
    """Whether the wished MTU, which a bridge takes over from its port, ends IPv6 on a link that has it."""
    return wish.mtu is not None and wish.mtu < IPV6_MIN_MTU <= link.mtu


def _lost_with_ipv6(link: Link, observed: Observed) -> Iterator[Operation]:
    if link.addrgenmode in ("none", "random"):
        yield LinkSet(link.name, "addrgenmode", link.addrgenmode, "")
    if link.state == "up":
        yield LinkLocalFlush(link.name)  # the kernel makes a new one when IPv6 begins again
    yield from _ipv6_addresses(link, observed)


def _ipv6_addresses(link: Link, observed: Observed) -> Iterator[Operation]:
    """What brings the IPv6 addresses of a link back, but none with a peer, which AddressAdd does not know."""
    for address in observed.on(link.name):
        if address.address.version == 6 and address.network == address.address.network:
            yield AddressAdd(link.name, address.address, address.flags, address.protocol)


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(other)
