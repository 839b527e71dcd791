"""What the table of bad configurations in test_load.py leaves over: exceptions to the rules, and borders."""

from __future__ import annotations

import pytest

from tunneld.config import load
from tunneld.proto.errors import ConfigErrors

FILE = """\
[tunnel]
protocol = "plain"
transport = "{transport}"
listen = "{listen}"
[interface]
name = "t0"
mode = "{mode}"
addresses = {addresses}
{interface}
[network]
routes = {routes}
[[peer]]
endpoint = {endpoint}
allowed_ips = {allowed_ips}
"""
DEFAULTS = {
    "transport": "udp",
    "listen": "[::]:55555",
    "mode": "tun",
    "addresses": ["10.0.0.1/24"],
    "interface": "",
    "routes": [],
    "endpoint": ["192.0.2.2:55555"],
    "allowed_ips": [],
}


@pytest.fixture
def check(tmp_path):
    """The faults of a configuration that differs from a good one by `changes`."""
    path = tmp_path / "t.toml"

    def faults(look_up=None, **changes) -> list[str]:
        path.write_text(FILE.format(**{**DEFAULTS, **changes}))
        path.chmod(0o644)
        try:
            load(path, look_up)
        except ConfigErrors as errors:
            return [f"{error.key}: {error.message}" for error in errors.errors]
        return []

    return faults


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"endpoint": ["10.0.0.2:55555"], "interface": 'netns = "x"'},  # the subnet is in another namespace
        {"endpoint": ["10.0.0.2:55555"], "mode": "tap", "interface": 'bridge = "br0"'},  # maybe on another port
        {"allowed_ips": ["0.0.0.0/0"]},  # makes no route
        {"allowed_ips": ["10.1.0.0/16"], "routes": ["10.1.0.0/16", "10.1.2.0/24"]},
        {"routes": ["10.1.0.0/16", "fd00::/8"]},
        {"endpoint": ["127.0.0.1:1"]},  # another port of this host
        {"endpoint": ["127.0.0.1:55555"], "listen": "192.0.2.1:55555"},
        {"endpoint": ["[2001:db8::1]:1"], "listen": "192.0.2.1:1", "transport": "tcp"},  # each its own socket
        {"addresses": ["10.0.0.1/24", "10.0.0.2/24", "fd00::1/64"]},
        {"addresses": ["10.0.0.1/24"], "interface": "mtu = 576"},
        {"addresses": ["fd00::1/64"], "interface": "mtu = 1280"},
        {"mode": "tap", "interface": 'bridge = "br0"\nmac = "02:00:00:00:00:01"'},
    ],
)
def test_what_is_allowed(check, changes):
    assert check(**changes) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"interface": 'bridge = "br0"'}, 'bridge: only a TAP device has a bridge; write mode = "tap" or remove it'),
        (
            {"interface": 'mac = "02:00:00:00:00:01"'},
            'mac: only a TAP device has a mac; write mode = "tap" or remove it',
        ),
        ({"mode": "tap", "interface": 'bridge = "t0"'}, 'bridge: "t0" is the interface itself; name a bridge'),
        (
            {"addresses": ["10.0.0.1/24", "10.0.0.1/16"]},
            "addresses: 10.0.0.1 is there twice; keep one of the two",
        ),
        ({"routes": ["10.1.0.0/16", "10.1.0.0/16"]}, "routes: 10.1.0.0/16 is there twice; keep one of the two"),
        (
            {"routes": ["::/0"]},
            "routes: this version cannot send everything through the tunnel; write smaller prefixes",
        ),
        (
            {"routes": ["fd00::/16"], "allowed_ips": ["10.0.0.0/8"]},
            "routes: fd00::/16 lies inside no allowed_ips; add it there",
        ),
        ({"endpoint": ["a:1", "a:1"]}, "endpoint: a:1 is there twice; keep one of the two"),
        (
            {"endpoint": ["192.0.2.2:1"], "routes": ["192.0.2.0/25"]},
            "endpoint: 192.0.2.2 lies inside routes 192.0.2.0/25, which would route the tunnel into itself; "
            "take 192.0.2.2 out of it",
        ),
        (
            {"endpoint": ["10.0.0.1:55555"]},
            "endpoint: 10.0.0.1:55555 is this host itself; write the address of the peer",
        ),
        (
            {"endpoint": ["[2001:db8::1]:1"], "listen": "192.0.2.1:2"},
            'endpoint: [2001:db8::1]:1 is IPv6, but listen is IPv4; write listen = "[::]:PORT"',
        ),
        (
            {"endpoint": ["192.0.2.2:1"], "listen": "[2001:db8::1]:2"},
            'endpoint: 192.0.2.2:1 is IPv4, but listen is IPv6; write listen = "[::]:PORT"',
        ),
        ({"addresses": ["fd00::1/64"], "interface": "mtu = 1279"}, None),
    ],
)
def test_what_is_not(check, changes, fault):
    wanted = fault or "mtu: must be 576..65475, and 1280 or more with IPv6"
    assert check(**changes) == [wanted]


def test_a_value_with_a_fault_is_not_judged_twice(check):
    assert len(check(addresses=["10.0.0.1/24", "10.0.0.1/24", "x"])) == 1
    assert len(check(allowed_ips=["10.0.0.0/33"], routes=["10.1.0.0/16"])) == 1
    assert len(check(endpoint=["x", "127.0.0.1:55555"])) == 1


def test_names_are_looked_up_only_where_asked(check):
    asked = []

    def nobody_knows(endpoint):
        asked.append(str(endpoint))
        raise OSError(-2, "Name or service not known")

    assert check(endpoint=["vpn.invalid:1", "192.0.2.2:1"]) == []
    assert check(nobody_knows, endpoint=["vpn.invalid:1", "192.0.2.2:1"]) == [
        "endpoint: vpn.invalid does not resolve (Name or service not known); correct the name or the name server"
    ]
    assert asked == ["vpn.invalid:1"]


def test_a_privileged_port_needs_its_capability(check, without_capabilities):
    wanted = ["listen: port 443 needs CAP_NET_BIND_SERVICE; use a port of 1024 or more"]
    assert without_capabilities(lambda: check(listen="[::]:443")) == wanted
    assert without_capabilities(lambda: check(listen="[::]:1024")) == []


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"interface": "mtu = 1471"}, 1470),
        ({"interface": "mtu = 1451", "endpoint": ["[2001:db8::1]:1"]}, 1450),
        ({"interface": "mtu = 1500", "mode": "tap"}, 1452),
        ({"interface": "mtu = 1500", "endpoint": ["vpn.example.org:1"]}, 1470),
        ({"interface": "mtu = 1470"}, None),
        ({"interface": "mtu = 1500", "transport": "tcp"}, None),
        ({"interface": "mtu = 9000", "endpoint": ["127.0.0.1:1"]}, None),
        ({}, None),
    ],
)
def test_packets_that_travel_in_fragments_are_warned_of(tmp_path, changes, largest):
    path = tmp_path / "t.toml"
    path.write_text(FILE.format(**{**DEFAULTS, **changes}))
    path.chmod(0o644)
    warnings = load(path).warnings
    if largest is None:
        assert warnings == ()
    else:
        assert [(warning.key, warning.line) for warning in warnings] == [("mtu", 9)]
        assert warnings[0].message.endswith(f"; {largest} or less avoids that")
