"""What of our changes is still there and still ours: what an undo may touch, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from tunneld.netcfg.model import PROTOCOL, Link, Observed, Prefix
from tunneld.netcfg.operation import (
    AddressAdd,
    AddressDel,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    Operation,
    PortLeave,
    RouteDel,
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The operations to execute, in order, and one line for each thing that is left alone because it is not ours."""

    operations: tuple[Operation, ...]
    spared: tuple[str, ...]


def sweep(undo: Sequence[Operation], links: Mapping[str, int], observed: Observed) -> Sweep:
    """What of `undo` still holds. `links` are the indexes of the links that were there when the changes were made:
    the device, the bridge, the ports that it had.

    What is gone is passed over in silence: a device takes its addresses and routes along. A link of the same name
    with another index is a stranger; one of the same index with another name was renamed.
    """
    by_index = {link.index: link.name for link in observed.links}
    names = {name: by_index[index] for name, index in links.items() if index in by_index}
    known = {operation.link for operation in undo if isinstance(operation, PortLeave)} | {*links, *names.values()}
    standing = {(route.destination, route.link, route.protocol) for route in observed.routes}
    operations: list[Operation] = []
    spared: list[str] = []
    for planned in undo:
        operation = replace(planned, link=names.get(planned.link, planned.link))
        link = observed.link(operation.link)
        if link is None or links.get(link.name, link.index) != link.index:
            continue
        objection = _objection(operation, link, known, observed, standing)
        if objection is None:
            operations.append(operation)
        elif objection:
            spared.append(f"{objection}: left alone")
    return Sweep(tuple(operations), tuple(spared))


def leftovers(name: str, interface: str | None, observed: Observed) -> tuple[Operation, ...]:
    """What the tags alone say is ours, where no journal tells: the bridge of the tunnel `name`, and the addresses and
    routes on that bridge and on `interface`.
    """
    bridges = [link.name for link in observed.links if link.kind == "bridge" and link.alias == f"tunneld:{name}"]
    holders = [*bridges, interface]
    devices = [link for link in observed.links if link.name == interface and link.master in bridges]
    routes = [route for route in observed.routes if route.link in holders and route.protocol == PROTOCOL]
    addresses = [one for one in observed.addresses if one.link in holders and one.protocol == PROTOCOL]
    return (
        *(PortLeave(device.name, device.master) for device in devices),
        *(RouteDel(route.link, route.destination) for route in routes),
        *(AddressDel(address.link, address.address) for address in addresses),
        *(BridgeDel(bridge, f"tunneld:{name}") for bridge in bridges),
    )


def _objection(
    operation: Operation, link: Link, known: set[str], observed: Observed, standing: Set[tuple[Prefix, str, int]]
) -> str | None:
    """None when the operation may go on; "" when there is nothing left to do; else whose it is by now."""
    others = sorted(observed.ports(link.name) - known)
    match operation:
        case LinkSet(attribute=attribute, value=value, was=was):
            return _changed(link, attribute, value, was, others)
        case BridgeDel(alias=alias) if link.alias != alias:
            return f"{link.name} does not carry our alias {alias}"
        case BridgeDel() if others:
            return f"{link.name} has ports that are not ours ({', '.join(others)})"
        case PortLeave(bridge=bridge) if link.master != bridge:
            return ""
        case AddressDel():
            return _not_ours(operation, observed)
        case LinkLocalFlush() | MulticastDel() if others:
            return ""
        case RouteDel(destination=destination, protocol=protocol):
            return None if (destination, link.name, protocol) in standing else ""
        case AddressAdd():
            return None
    return None


def _changed(link: Link, attribute: str, value: int | str, was: int | str, others: list[str]) -> str | None:
    now = getattr(link, attribute)
    if was == "":
        return "" if others else None  # nobody chose what it has now, unless other ports did
    if now == value:
        return ""
    return None if now == was else f"{link.name} has {attribute} {now} by now, which is not ours"


def _not_ours(operation: AddressDel, observed: Observed) -> str | None:
    found = next((one for one in observed.on(operation.link) if one.address == operation.address), None)
    if found is None:
        return ""
    if observed.tags_addresses and found.protocol != PROTOCOL:
        return f"{operation.address} on {operation.link} does not carry our tag"
    return None
