"""The laws of a plan, over tables: made, it is empty; undone, nothing has changed; what is foreign stays."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.netcfg.model import PROTOCOL, ROUTE_METRIC, Address, Link, Observed, Route, Wish
from tunneld.netcfg.operation import (
    AddressAdd,
    AddressDel,
    BridgeAdd,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    Operation,
    PortJoin,
    PortLeave,
    RouteAdd,
    RouteDel,
)
from tunneld.netcfg.plan import plan
from tunneld.netcfg.sweep import sweep
from tunneld.proto.errors import ConfigErrors, DeviceError

TUN = Link(7, "t0", "tun", 1500, 500, mode="tun")
TAP = Link(7, "t0", "tun", 1500, 1000, "02:00:00:00:00:07", mode="tap")
ETH = Link(2, "eth1", "", 1500, 1000, "02:00:00:00:00:02", state="up")
BRIDGE = Link(3, "br0", "bridge", 1500, 1000, "02:00:00:00:00:03", state="up")


def test_a_bare_tun_device():
    wish = wish_of("tun", ["192.168.0.1/24", "fd00:5::1/64"], ["10.20.0.0/16", "fd00:20::/64"], mtu=1400)
    assert commands(wish, Observed((ETH, TUN))) == [
        "ip link set dev t0 mtu 1400",
        "ip address add 192.168.0.1/24 dev t0",
        "ip address add fd00:5::1/64 dev t0 nodad",
        "ip link set dev t0 up",
        "ip route add 10.20.0.0/16 dev t0 proto 250",
        "ip -6 route add fd00:20::/64 dev t0 proto 250",
    ]


def test_a_tap_device_on_a_bridge_that_is_made():
    wish = wish_of("tap", ["192.168.0.1/24"], bridge="br0", mac="02:00:00:00:00:99", txqueuelen=77)
    assert commands(wish, Observed((ETH, TAP))) == [
        "ip link set dev t0 address 02:00:00:00:00:99",
        "ip link set dev t0 txqueuelen 77",
        "ip link add br0 type bridge",
        "ip link set dev br0 alias tunneld:office",
        "ip link set dev br0 up",
        "ip address add 192.168.0.1/24 dev br0",
        "ip link set dev t0 up",
        "ip link set dev t0 master br0",
    ]


def test_a_bridge_that_is_there_is_joined_and_not_made():
    observed = Observed((ETH, replace(ETH, index=4, name="eth2", master="br0"), BRIDGE, TAP))
    assert commands(wish_of("tap", bridge="br0"), observed) == [
        "ip link set dev t0 address fe:00:00:00:00:07",
        "ip link set dev t0 up",
        "ip link set dev t0 master br0",
    ]


def test_a_bridge_keeps_its_address_unless_the_port_was_given_one():
    bridged = wish_of("tap", bridge="br0")
    for device in (replace(TAP, persistent=True), replace(TAP, address="fe:00:00:00:00:07"), Link.fresh("t0", "tap")):
        assert not any("address" in command for command in commands(bridged, Observed((BRIDGE, device))))
    assert not any("address" in command for command in commands(wish_of("tap"), Observed((TAP,))))


def test_a_bridge_without_ports_gets_its_own_address_back():
    *_, joined = plan(wish_of("tap", bridge="br0"), Observed((BRIDGE, TAP)))
    restored = LinkSet("br0", "address", BRIDGE.address, "")
    assert joined.operation == PortJoin("t0", "br0")
    assert joined.undo == (PortLeave("t0", "br0"), restored, LinkLocalFlush("br0"), MulticastDel("br0"))


def test_link_local_addresses_that_were_there_stay():
    *_, joined = plan(wish_of("tap", bridge="br0"), Observed((BRIDGE, TAP), (on("br0", "fe80::3/64"),)))
    assert LinkLocalFlush("br0") not in joined.undo


def test_ipv6_addresses_that_an_undo_takes_along_come_back():
    keep = on("t0", "fd00:9::1/64")
    back = AddressAdd("t0", keep.address, 0, 0)
    (up,) = plan(wish_of("tun"), Observed((TUN,), (keep,)))
    assert up.undo == (LinkSet("t0", "state", "down", "up"), back)
    (mtu,) = plan(wish_of("tun", mtu=1000), Observed((replace(TUN, state="up"),), (keep,)))
    assert mtu.undo == (LinkSet("t0", "mtu", 1500, 1000), LinkLocalFlush("t0"), back)
    _, both = plan(wish_of("tun", mtu=1000), Observed((TUN,), (keep,)))
    assert both.undo == (LinkSet("t0", "state", "down", "up"),)
    *_, joined = plan(wish_of("tap", bridge="br0", mtu=1000), Observed((BRIDGE, TAP), (on("br0", "fd00:9::1/64"),)))
    assert replace(back, link="br0") in joined.undo


def test_a_device_that_has_vanished_is_no_fault_of_the_configuration():
    with pytest.raises(DeviceError, match="t0"):
        plan(wish_of("tun"), Observed((ETH,)))


@pytest.mark.parametrize(
    ("own", "there", "said"),
    [
        ("10.0.0.1/24", "10.0.0.1/24", "10.0.0.1/24 already on eth1; "),
        ("10.0.0.1/24", "10.0.0.9/8", "10.0.0.1/24 already on eth1 as 10.0.0.9/8; "),
        ("10.0.0.1/8", "10.3.0.9/32", "10.0.0.1/8 already on eth1 as 10.3.0.9/32; "),
        ("fd00::1/64", "fd00::9/48", "fd00::1/64 already on eth1 as fd00::9/48; "),
    ],
)
def test_an_address_that_overlaps_another_interface_is_refused(own, there, said):
    assert faults(wish_of("tun", [own]), Observed((ETH, TUN), (on("eth1", there),)))[0].startswith(
        f"office.toml: addresses: {said}"
    )


@pytest.mark.parametrize(
    ("own", "link", "there"),
    [
        ("10.0.0.1/24", "t0", "10.0.0.9/24"),
        ("10.0.0.1/24", "eth1", "10.0.1.1/24"),
        ("fe80::1/64", "eth1", "fe80::2/64"),
        ("10.0.0.1/24", "eth1", "fd00::1/64"),
    ],
)
def test_addresses_that_do_not_overlap_are_taken(own, link, there):
    assert commands(wish_of("tun", [own]), Observed((ETH, TUN), (on(link, there),)))


@pytest.mark.parametrize(
    ("wish", "links", "said"),
    [
        ({"mode": "tun"}, (replace(ETH, name="t0"),), "name: t0 exists and is no TUN or TAP device; "),
        ({"mode": "tun"}, (TAP,), 'mode: t0 is a TAP device; write mode = "tap"'),
        ({"mode": "tap", "bridge": "eth1"}, (ETH, TAP), "bridge: eth1 exists and is no bridge; "),
        ({"mode": "tap", "bridge": "br0"}, (replace(TAP, master="br1"),), "bridge: t0 is a port of br1; "),
    ],
)
def test_links_in_the_way(wish, links, said):
    assert faults(wish_of(**wish), Observed(links))[0].startswith(f"office.toml: {said}")


def test_a_foreign_route_is_never_replaced():
    foreign = Route(ip_network("10.20.0.0/16"), "eth1", gateway="192.0.2.1")
    assert faults(wish_of("tun", routes=["10.20.0.0/16"]), Observed((ETH, TUN), routes=(foreign,))) == [
        "office.toml: allowed_ips: there is a route already: 10.20.0.0/16 via 192.0.2.1 dev eth1; "
        "delete it, or take 10.20.0.0/16 out of the configuration"
    ]


def test_a_route_that_the_kernel_would_prefer_is_a_rival_and_a_worse_one_is_not():
    wish = wish_of("tun", routes=["10.20.0.0/16", "fd00:20::/64"])
    better = Route(ip_network("fd00:20::/64"), "eth1", metric=256)
    worse = Route(ip_network("10.20.0.0/16"), "eth1", metric=100)
    assert len(faults(wish, Observed((ETH, TUN), routes=(better, worse)))) == 1
    assert len(commands(wish, Observed((ETH, TUN), routes=(worse,)))) == 3


def test_thousands_of_routes_are_compared_and_taken_back_within_a_second():
    prefixes = [f"10.{high}.{low}.0/24" for high in range(16) for low in range(256)]
    wish = wish_of("tun", [], prefixes)
    there = tuple(Route(prefix, "t0", protocol=PROTOCOL) for prefix in wish.routes)
    observed = Observed((ETH, replace(TUN, state="up")), routes=there)
    undo = [RouteDel("t0", prefix) for prefix in wish.routes]
    begun = perf_counter()
    assert commands(wish, observed) == []
    assert len(sweep(undo, {"t0": 7}, observed).operations) == len(undo)
    assert perf_counter() - begun < 1


def test_a_route_that_is_as_wished_is_left_as_it_is():
    there = Route(ip_network("10.20.0.0/16"), "t0", protocol=4)
    up = replace(TUN, state="up")
    assert commands(wish_of("tun", routes=["10.20.0.0/16"]), Observed((up,), routes=(there,))) == []


def test_every_fault_is_told_at_once():
    observed = Observed((ETH, TAP), (on("eth1", "10.0.0.1/24"),), (Route(ip_network("10.20.0.0/16"), "eth1"),))
    assert len(faults(wish_of("tun", ["10.0.0.1/24"], ["10.20.0.0/16"]), observed)) == 3


# Few values each, so that what is wished is often there already.
CIDRS = ["192.168.0.1/24", "192.168.1.1/32", "10.9.0.1/31", "fd00:5::1/64", "fd00:6::1/128"]
PREFIXES = ["10.20.0.0/16", "10.20.5.0/24", "192.168.0.7/32", "fd00:20::/64", "fd00:20:0:1::/64"]


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Wish, Observed]:
    mode = draw(st.sampled_from(["tun", "tap"]))
    bridge = draw(st.sampled_from([None, "br0"])) if mode == "tap" else None
    wish = wish_of(
        mode,
        draw(some(CIDRS)),
        draw(some(PREFIXES)),
        bridge=bridge,
        mtu=draw(st.sampled_from([None, 1500, 1400])),
        txqueuelen=draw(st.sampled_from([None, 1000, 77])),
        mac=draw(st.sampled_from([None, TAP.address, "02:00:00:00:00:99"])) if mode == "tap" else None,
    )
    states = st.sampled_from(["up", "down"])
    device = replace(TUN if mode == "tun" else TAP, state=draw(states))
    made = bridge is not None and draw(st.booleans())
    holder = "t0" if bridge is None else "br0" if made else None
    links = (ETH, device, *((replace(BRIDGE, state=draw(states)),) if made else ()))
    addresses = tuple(on(holder, cidr) for cidr in draw(some(CIDRS))) if holder else ()
    up = {link.name for link in links if link.state == "up"}
    routes = tuple(route_of(holder, prefix) for prefix in draw(some(PREFIXES))) if holder in up else ()
    return wish, Observed(links, addresses, routes)


@given(situations())
def test_a_plan_that_is_made_is_empty_and_undone_it_leaves_everything_as_it_was(situation):
    wish, before = situation
    steps = plan(wish, before)
    states = [before]
    for step in steps:
        states.append(after(states[-1], step.operation))
    assert plan(wish, states[-1]) == ()
    # Undone after any number of steps, as when the next one fails.
    for count, state in enumerate(states):
        for step in reversed(steps[:count]):
            for operation in step.undo:
                state = after(state, operation)
        assert as_sets(state) == as_sets(before)


@given(situations())
def test_a_sweep_undoes_the_same_as_an_undo(situation):
    wish, before = situation
    steps = plan(wish, before)
    state = before
    for step in steps:
        state = after(state, step.operation)
    undo = [operation for step in reversed(steps) for operation in step.undo]
    links = {link.name: link.index for link in before.links}
    swept = sweep(undo, links, state)
    for operation in swept.operations:
        state = after(state, operation)
    assert swept.spared == ()
    assert as_sets(state) == as_sets(before)


def wish_of(mode: str, addresses=(), routes=(), **more) -> Wish:
    return Wish(
        "office",
        "t0",
        mode,
        tuple(map(ip_interface, addresses)),
        tuple(map(ip_network, routes)),
        file="office.toml",
        **more,
    )


def on(link: str, cidr: str, protocol: int = 0) -> Address:
    address = ip_interface(cidr)
    return Address(link, address, address.network, protocol)


def route_of(link: str, prefix: str) -> Route:
    destination = ip_network(prefix)
    return Route(destination, link, metric=ROUTE_METRIC[destination.version], protocol=4)


def commands(wish: Wish, observed: Observed) -> list[str]:
    return [step.operation.command for step in plan(wish, observed)]


def faults(wish: Wish, observed: Observed) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        plan(wish, observed)
    return [str(error) for error in caught.value.errors]


def as_sets(observed: Observed) -> tuple[frozenset, ...]:
    return frozenset(observed.links), frozenset(observed.addresses), frozenset(observed.routes)


def after(observed: Observed, operation: Operation) -> Observed:
    """The kernel in a table: what an operation does, written the obvious way; it asserts where the kernel refuses."""
    name, links, addresses, routes = operation.link, observed.links, observed.addresses, observed.routes
    match operation:
        case BridgeAdd():
            assert observed.link(name) is None
            links = (*links, Link(1 + max(link.index for link in links), name, "bridge", 1500, 1000))
        case BridgeDel():
            assert observed.link(name) is not None
            links = tuple(replace(one, master="") if one.master == name else one for one in links if one.name != name)
            addresses = tuple(one for one in addresses if one.link != name)
            routes = tuple(one for one in routes if one.link != name)
        case LinkSet(attribute="state", value="down"):
            links = changed(observed, name, state="down")
            addresses = tuple(one for one in addresses if one.link != name or one.address.version == 4)
            routes = tuple(one for one in routes if one.link != name)
        case LinkSet(attribute=attribute, value=value):
            links = changed(observed, name, **{attribute: value})
        case PortJoin(bridge=bridge):
            assert observed.link(bridge) is not None
            links = changed(observed, name, master=bridge)
        case PortLeave():
            links = changed(observed, name, master="")
        case AddressAdd(address=address, flags=flags, protocol=protocol):
            if not any(one.address == address for one in observed.on(name)):
                addresses = (*addresses, Address(name, address, address.network, protocol, flags))
        case AddressDel(address=address):
            addresses = tuple(one for one in addresses if (one.link, one.address) != (name, address))
        case MulticastDel():
            pass
        case LinkLocalFlush():
            addresses = tuple(one for one in addresses if one.link != name or not one.address.is_link_local)
        case RouteAdd(destination=destination, protocol=protocol):
            assert observed.link(name).state == "up"
            metric = ROUTE_METRIC[destination.version]
            assert (destination, metric) not in {(one.destination, one.metric) for one in routes}
            routes = (*routes, Route(destination, name, "", metric, protocol))
        case RouteDel(destination=destination, protocol=protocol):
            mine = (name, destination, protocol)
            routes = tuple(one for one in routes if (one.link, one.destination, one.protocol) != mine)
    return Observed(links, addresses, routes)


def changed(observed: Observed, name: str, **fields) -> tuple[Link, ...]:
    assert observed.link(name) is not None
    return tuple(replace(link, **fields) if link.name == name else link for link in observed.links)
