"""Each change is the command that a person would type, and survives the journal."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network

import pytest

from tunneld.netcfg.operation import (
    AddressAdd,
    AddressDel,
    BridgeAdd,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    PortJoin,
    PortLeave,
    RouteAdd,
    RouteDel,
    from_json,
    spell,
    to_json,
)

FOUR, SIX = ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")
COMMANDS = [
    (LinkSet("tun0", "mtu", 1400, 1500), "ip link set dev tun0 mtu 1400"),
    (LinkSet("tun0", "state", "up", "down"), "ip link set dev tun0 up"),
    (LinkSet("tap0", "address", "02:00:00:00:00:01", ""), "ip link set dev tap0 address 02:00:00:00:00:01"),
    (LinkSet("br0", "alias", "tunneld:x", ""), "ip link set dev br0 alias tunneld:x"),
    (BridgeAdd("br0", "tunneld:x"), "ip link add br0 type bridge"),
    (BridgeDel("br0", "tunneld:x"), "ip link del br0 type bridge"),
    (PortJoin("tap0", "br0"), "ip link set dev tap0 master br0"),
    (PortLeave("tap0", "br0"), "ip link set dev tap0 nomaster"),
    (AddressAdd("tun0", FOUR), "ip address add 10.0.0.1/24 dev tun0"),
    (AddressAdd("tun0", SIX, flags=0x202, protocol=0), "ip address add fd00::1/64 dev tun0 nodad noprefixroute"),
    (AddressDel("tun0", SIX), "ip address del fd00::1/64 dev tun0"),
    (LinkLocalFlush("br0"), "ip -6 address flush dev br0 scope link"),
    (MulticastDel("br0"), "ip -6 route del multicast ff00::/8 dev br0 table local"),
    (RouteAdd("tun0", ip_network("10.20.0.0/16")), "ip route add 10.20.0.0/16 dev tun0 proto 250"),
    (RouteDel("tun0", ip_network("fd00:20::/64")), "ip -6 route del fd00:20::/64 dev tun0 proto 250"),
]


@pytest.mark.parametrize(("operation", "command"), COMMANDS)
def test_the_command(operation, command):
    assert operation.command == command


@pytest.mark.parametrize("operation", [operation for operation, _ in COMMANDS])
def test_json_and_back(operation):
    assert from_json(json.loads(json.dumps(to_json(operation)))) == operation


@pytest.mark.parametrize(
    "record", [{"operation": "Nothing"}, {"operation": "PortJoin", "link": "a"}, {}, {"operation": "AddressDel"}]
)
def test_what_is_no_operation_is_refused(record):
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_json(record)


@pytest.mark.parametrize(
    "operation",
    [BridgeAdd("br0", "a"), PortJoin("tap0", "br0"), AddressAdd("tun0", FOUR), RouteAdd("tun0", FOUR.network)],
)
def test_an_inverse_is_about_the_same_thing(operation):
    kept = {key: value for key, value in to_json(operation).items() if key not in ("operation", "flags", "protocol")}
    assert kept.items() <= to_json(operation.inverse).items()


def test_a_setting_is_undone_by_the_setting_before():
    change = LinkSet("tun0", "mtu", 1400, 1500)
    assert change.inverse == LinkSet("tun0", "mtu", 1500, 1400)
    assert change.inverse.inverse == change


def test_a_command_for_another_namespace():
    command = LinkSet("tun0", "mtu", 1400, 1500).command
    assert spell(command, None) == command
    assert spell(command, "work") == "ip -n work link set dev tun0 mtu 1400"
    assert spell(command, "/proc/7/ns/net") == "nsenter --net=/proc/7/ns/net ip link set dev tun0 mtu 1400"
