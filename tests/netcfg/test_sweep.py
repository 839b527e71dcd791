"""A sweep takes what is still ours, passes over what is gone, and leaves alone what became somebody else's."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from tunneld.netcfg.model import PROTOCOL, Address, Link, Observed, Route
from tunneld.netcfg.operation import (
    AddressAdd,
    AddressDel,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    PortLeave,
    RouteDel,
)
from tunneld.netcfg.sweep import leftovers, sweep

ADDRESS = ip_interface("10.0.0.1/24")
PREFIX = ip_network("10.20.0.0/16")
TAP = Link(7, "tap0", "tun", 1400, 1000, state="up", mode="tap", master="br0")
BRIDGE = Link(8, "br0", "bridge", 1500, 1000, "02:00:00:00:00:03", state="up", alias="tunneld:office")
OURS = Observed(
    (TAP, BRIDGE),
    (Address("tap0", ADDRESS, ADDRESS.network, PROTOCOL),),
    (Route(PREFIX, "tap0", protocol=PROTOCOL),),
)
UNDO = (
    PortLeave("tap0", "br0"),
    RouteDel("tap0", PREFIX),
    AddressDel("tap0", ADDRESS),
    BridgeDel("br0", "tunneld:office"),
    LinkSet("tap0", "mtu", 1500, 1400),
)


def test_what_is_as_we_left_it_is_undone():
    found = sweep(UNDO, {"tap0": 7}, OURS)
    assert found.operations == UNDO
    assert found.spared == ()


def test_a_device_that_has_gone_took_everything_along():
    gone = Observed((replace(BRIDGE, master=""),))
    assert sweep(UNDO, {"tap0": 7}, gone).operations == (BridgeDel("br0", "tunneld:office"),)


def test_a_stranger_of_the_same_name_is_not_touched():
    assert sweep(UNDO[:3], {"tap0": 6}, OURS).operations == ()


def test_a_link_that_was_renamed_is_ours_under_its_new_name():
    renamed = Observed(
        (replace(TAP, name="tap9"), BRIDGE),
        (Address("tap9", ADDRESS, ADDRESS.network, PROTOCOL),),
        (Route(PREFIX, "tap9", protocol=PROTOCOL),),
    )
    found = sweep(UNDO, {"tap0": 7, "br0": 8}, renamed)
    assert found.spared == ()
    assert [operation.link for operation in found.operations] == ["tap9", "tap9", "tap9", "br0", "tap9"]


def test_what_is_undone_already_is_passed_over():
    clean = Observed((replace(TAP, master="", mtu=1500),))
    found = sweep(UNDO, {"tap0": 7}, clean)
    assert (found.operations, found.spared) == ((), ())


@pytest.mark.parametrize(
    ("changed", "operation", "said"),
    [
        (replace(BRIDGE, alias="lan"), BridgeDel("br0", "tunneld:office"), "br0 does not carry our alias"),
        (replace(TAP, mtu=1300), LinkSet("tap0", "mtu", 1500, 1400), "tap0 has mtu 1300 by now"),
    ],
)
def test_what_somebody_else_changed_is_left_alone_and_said(changed, operation, said):
    links = tuple(changed if link.name == changed.name else link for link in OURS.links)
    found = sweep(UNDO, {"tap0": 7}, replace(OURS, links=links))
    assert operation not in found.operations
    assert len(found.operations) == len(UNDO) - 1
    (line,) = found.spared
    assert line.startswith(said)
    assert line.endswith(": left alone")


def test_our_bridge_with_a_port_of_somebody_else_is_left_alone():
    other = Link(9, "eth1", "", 1500, 1000, master="br0")
    found = sweep(UNDO, {"tap0": 7}, replace(OURS, links=(*OURS.links, other)))
    assert BridgeDel("br0", "tunneld:office") not in found.operations
    assert found.spared == ("br0 has ports that are not ours (eth1): left alone",)


def test_an_address_of_somebody_else_is_left_alone_where_the_kernel_can_tell():
    foreign = Address("tap0", ADDRESS, ADDRESS.network)
    tagged = Address("lo", ip_interface("::1/128"), ip_network("::1/128"), protocol=1)
    undo = (AddressDel("tap0", ADDRESS),)
    assert sweep(undo, {}, replace(OURS, addresses=(foreign, tagged))).operations == ()
    # Linux before 5.18 keeps no tags.
    assert sweep(undo, {}, replace(OURS, addresses=(foreign,))).operations == undo


def test_a_route_without_our_tag_is_passed_over():
    foreign = Route(PREFIX, "tap0", protocol=4)
    assert sweep((RouteDel("tap0", PREFIX),), {}, replace(OURS, routes=(foreign,))).operations == ()


def test_side_effects_on_a_bridge_are_mended_only_while_nobody_else_uses_it():
    address = LinkSet("br0", "address", "02:00:00:00:00:01", "")
    undo = (PortLeave("tap0", "br0"), address, LinkLocalFlush("br0"), MulticastDel("br0"))
    assert sweep(undo, {}, OURS).operations == undo
    other = Link(9, "eth1", "", 1500, 1000, master="br0")
    shared = replace(OURS, links=(*OURS.links, other))
    assert sweep(undo, {}, shared).operations == undo[:1]
    # A port that the bridge had before us is no newcomer.
    assert sweep(undo, {"eth1": 9}, shared).operations == undo


def test_foreign_addresses_are_given_back_even_while_they_are_still_there():
    undo = (LinkSet("tap0", "state", "down", "up"), AddressAdd("tap0", ip_interface("fd00::1/64"), 0, 0))
    assert sweep(undo, {}, OURS).operations == undo


def test_the_tags_alone_tell_what_is_ours():
    foreign = Route(ip_network("10.30.0.0/16"), "tap0", protocol=4)
    elsewhere = Route(ip_network("10.40.0.0/16"), "tun9", protocol=PROTOCOL)
    observed = replace(OURS, routes=(*OURS.routes, foreign, elsewhere))
    undo = leftovers("office", "tap0", observed)
    assert undo == (*UNDO[:3], BridgeDel("br0", "tunneld:office"))
    assert sweep(undo, {}, observed).operations == undo
    assert leftovers("berlin", "tun3", observed) == ()
    assert leftovers("office", None, observed) == (BridgeDel("br0", "tunneld:office"),)
