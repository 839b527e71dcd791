"""What the table of bad configurations leaves over: exceptions to the rules, and borders."""

from __future__ import annotations

import pytest

from tests.config.bad import SEALED_CHANGES, B

ITSELF = "which would route the tunnel into itself"


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": ["10.0.0.2:55555"], "interface": 'netns = "x"'},  # the subnet is in another namespace
        {"endpoint": ["10.0.0.2:55555"], "mode": "tap", "interface": 'bridge = "br0"'},  # maybe on another port
        {"endpoint": ["127.0.0.1:1"]},  # another port of this host
        {"endpoint": ["127.0.0.1:55555"], "listen": "192.0.2.1:55555"},
        {"endpoint": ["[2001:db8::1]:1"], "listen": "192.0.2.1:1", "transport": "tcp"},  # each its own socket
    ],
)
def test_what_is_allowed(check, changes):
    assert check(**changes) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"endpoint": ["a:1", "a:1"]}, "a:1 is there twice; keep one of the two"),
        (
            {"endpoint": ["192.0.2.2:1"], "routes": ["192.0.2.0/25"]},
            f"192.0.2.2 lies inside routes 192.0.2.0/25, {ITSELF}; take 192.0.2.2 out of it",
        ),
        ({"endpoint": ["10.0.0.1:55555"]}, "10.0.0.1:55555 is this host itself; write the address of the peer"),
        (
            {"endpoint": ["[2001:db8::1]:1"], "listen": "192.0.2.1:2"},
            '[2001:db8::1]:1 is IPv6, but listen is IPv4; write listen = "[::]:PORT"',
        ),
        (
            {"endpoint": ["192.0.2.2:1"], "listen": "[2001:db8::1]:2"},
            '192.0.2.2:1 is IPv4, but listen is IPv6; write listen = "[::]:PORT"',
        ),
    ],
)
def test_what_is_not(check, changes, fault):
    assert check(**changes) == [f"endpoint: {fault}"]


SECOND = f'[[peer]]\nname = "b"\npublic_key = "{B}"\nallowed_ips = ["10.9.0.0/16"]\nendpoint = '


@pytest.mark.parametrize(
    ("endpoint", "faults"),
    [
        ('"192.0.2.3:1"', []),
        (
            '["192.0.2.3:1", "10.9.0.1:1"]',
            [f"10.9.0.1 lies inside allowed_ips 10.9.0.0/16, {ITSELF}; take 10.9.0.1 out of it"],
        ),
        (
            '"10.8.0.2:1"',
            [f'10.8.0.2 lies inside allowed_ips 10.8.0.0/16 of peer "a", {ITSELF}; take 10.8.0.2 out of it'],
        ),
    ],
)
def test_every_peer_is_looked_at_against_what_all_of_them_have(check, endpoint, faults):
    first = {**SEALED_CHANGES, "allowed_ips": ["10.8.0.0/16", "0.0.0.0/0"]}
    first["peer"] += f"\n{SECOND}{endpoint}"
    assert check(**first) == [f"endpoint: {fault}" for fault in faults]


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
