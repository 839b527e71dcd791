"""What the table of bad configurations leaves over: exceptions to the rules, and borders."""

from __future__ import annotations

import pytest

from tests.config.bad import SEALED_CHANGES, B
from tunneld.config import load
from tunneld.proto.errors import ConfigErrors

TCP = {"transport": "tcp"}
TAP = {"mode": "tap", "allowed_ips": []}
WIREGUARD = {**SEALED_CHANGES, "protocol": "wireguard"}
SECOND = f'[[peer]]\nname = "b"\npublic_key = "{B}"\n'


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"allowed_ips": ["0.0.0.0/0"]},  # makes no route
        {"allowed_ips": ["10.1.0.0/16"], "routes": ["10.1.0.0/16", "10.1.2.0/24"]},
        {"routes": ["10.1.0.0/16", "fd00::/8"]},
        {"addresses": ["10.0.0.1/24", "10.0.0.2/24", "fd00::1/64"]},
        {"addresses": ["10.0.0.1/24"], "interface": "mtu = 576"},
        {"addresses": ["fd00::1/64"], "interface": "mtu = 1280"},
        {"mode": "tap", "interface": 'bridge = "br0"\nmac = "02:00:00:00:00:01"'},
        {**SEALED_CHANGES, **TAP},
        {**SEALED_CHANGES, **TCP, **TAP, "interface": "mtu = 65474"},
        {**SEALED_CHANGES, "interface": "mtu = 65464"},
        {**SEALED_CHANGES, **TAP, "interface": "mtu = 65446"},
        {**WIREGUARD, "interface": "mtu = 65475"},
        WIREGUARD,
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


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "wiregard", "mode": "tap"},  # neither tap nor the missing keys can be judged
        {"protocol": "plane", "allowed_ips": []},
        {**SEALED_CHANGES, "mode": "tip"},
        {**SEALED_CHANGES, "mode": "tip", "allowed_ips": []},
        {**SEALED_CHANGES, "allowed_ips": ["x"]},
        {**SEALED_CHANGES, "peer": 'public_key = "x"'},
        {**SEALED_CHANGES, "peer": 'publik_key = "x"'},
        {**SEALED_CHANGES, "peer": f'{SEALED_CHANGES["peer"]}\n{SECOND}allowed_ip = ["10.0.0.3/32"]'},
        {**SEALED_CHANGES, "peer": f'{SEALED_CHANGES["peer"]}\n[[peer]]\nname = 3\npublic_key = "{B}"\n'
                                   'allowed_ips = ["10.0.0.3/32"]'},
    ],
)  # fmt: skip
def test_what_follows_from_a_fault_is_not_a_second_one(check, changes):
    assert len(check(**changes)) == 1


@pytest.mark.parametrize("peer", ["[peer]", "[peers]", "[[peers]]"])
def test_of_a_section_with_a_fault_only_its_values_are_judged(written, peer):
    path = written(**SEALED_CHANGES)
    path.write_text(path.read_text().replace("[[peer]]", peer).replace('"10.0.0.2/32"', '"10.0.0.2/33"'))
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert [error.key for error in refusal.value.errors] in ([f"[{peer.strip('[]')}]"], ["[peer]", "allowed_ips"])


@pytest.mark.parametrize(
    ("changes", "given", "written_as"),
    [
        ({}, "[tunnel]", "[tunel]"),
        ({}, "[tunnel]", "[[tunnel]]"),
        ({"endpoint": []}, "[tunnel]", "[tunel]"),  # which may have a listen
        ({**SEALED_CHANGES, **TAP}, "[interface]", "[interfaces]"),  # where the mode would be
    ],
)
def test_a_section_that_nobody_reads_has_no_missing_keys(written, changes, given, written_as):
    path = written(**changes)
    path.write_text(path.read_text().replace(given, written_as))
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert [error.key for error in refusal.value.errors] == [written_as]


def test_routes_may_lie_inside_the_allowed_ips_of_any_peer(check):
    second = f'{SECOND}allowed_ips = ["10.7.0.0/16"]'
    changes = {**SEALED_CHANGES, "peer": f"{SEALED_CHANGES['peer']}\n{second}"}
    assert check(**changes, routes=["10.7.1.0/24", "10.0.0.2/32"]) == []
    assert check(**changes, routes=["10.8.1.0/24"]) == [
        "routes: 10.8.1.0/24 lies inside no allowed_ips; add it there"
    ]


def test_a_privileged_port_needs_its_capability(check, without_capabilities):
    wanted = ["listen: port 443 needs CAP_NET_BIND_SERVICE; use a port of 1024 or more"]
    assert without_capabilities(lambda: check(listen="[::]:443")) == wanted
    assert without_capabilities(lambda: check(listen="[::]:1024")) == []


V6 = {"endpoint": ["[2001:db8::1]:1"]}
SECOND_V6 = f'{SEALED_CHANGES["peer"]}\n{SECOND}allowed_ips = ["10.0.0.3/32"]\nendpoint = "[2001:db8::1]:1"'


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"interface": "mtu = 1471"}, 1470),
        ({"interface": "mtu = 1451", **V6}, 1450),
        ({"interface": "mtu = 1500", "mode": "tap"}, 1452),
        ({"interface": "mtu = 1500", "endpoint": ["vpn.example.org:1"]}, 1470),
        ({"interface": "mtu = 1470"}, None),
        ({"interface": "mtu = 1500", **TCP}, None),
        ({"interface": "mtu = 9000", "endpoint": ["127.0.0.1:1"]}, None),
        ({}, None),
        ({**SEALED_CHANGES, "interface": "mtu = 1430"}, 1429),
        ({**SEALED_CHANGES, "interface": "mtu = 1429"}, None),
        ({**SEALED_CHANGES, "interface": "mtu = 1410", **V6}, 1409),
        ({**SEALED_CHANGES, "interface": "mtu = 1410", "peer": SECOND_V6}, 1409),
        ({**SEALED_CHANGES, "interface": "mtu = 1410", "peer": SECOND_V6, "endpoint": ["127.0.0.1:1"]}, 1409),
        ({**SEALED_CHANGES, **TAP, "interface": "mtu = 1500"}, 1411),
        ({**WIREGUARD, "interface": "mtu = 1441"}, 1440),
        ({**WIREGUARD, "interface": "mtu = 1421", **V6}, 1420),
    ],
)
def test_packets_that_travel_in_fragments_are_warned_of(written, changes, largest):
    warnings = load(written(**changes)).warnings
    if largest is None:
        assert warnings == ()
    else:
        assert [(warning.key, warning.line) for warning in warnings] == [("mtu", 10)]
        assert warnings[0].message.endswith(f"; {largest} or less avoids that")


@pytest.mark.parametrize("protocol", ["tunneld", "wireguard"])
@pytest.mark.parametrize("endpoint", ["192.0.2.2:1", "[2001:db8::1]:1", "vpn.example.org:1"])
def test_the_default_mtu_never_travels_in_fragments(written, protocol, endpoint):
    assert load(written(**{**SEALED_CHANGES, "protocol": protocol, "endpoint": [endpoint]})).warnings == ()
