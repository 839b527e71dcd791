"""Ports are called dev (the device), a, b and c (peers)."""

import random

import pytest

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.switch import AGEING, FLOODS_PER_SECOND, MACS_OF_DEVICE, MACS_PER_PEER, Switch

BROADCAST = b"\xff" * 6
MULTICAST = bytes.fromhex("333300000001")


def mac(number):
    return b"\x02" + number.to_bytes(5, "big")


def frame(destination, source):
    return memoryview(bytearray(destination + source + b"\x08\x00" + bytes(46)))


@pytest.fixture
def switch():
    switch = Switch("dev")
    for peer in "abc":
        switch.add(peer, now=0.0)
    return switch


def forward(switch, port, source, destination, now=1.0):
    """Where a frame goes, or why it goes nowhere."""
    try:
        return sorted(switch.forward_untrusted(frame(destination, source), port, now))
    except BadPacket as bad:
        return bad.reason


def test_unknown_and_group_addresses_go_everywhere_but_back(switch):
    assert forward(switch, "a", mac(1), mac(9)) == ["b", "c", "dev"]
    assert forward(switch, "dev", mac(2), BROADCAST) == ["a", "b", "c"]
    assert forward(switch, "b", mac(3), MULTICAST) == ["a", "c", "dev"]


def test_a_learnt_address_gets_its_frames_alone(switch):
    forward(switch, "a", mac(1), BROADCAST)
    forward(switch, "dev", mac(2), BROADCAST)
    assert forward(switch, "dev", mac(2), mac(1)) == ["a"]
    assert forward(switch, "a", mac(1), mac(2)) == ["dev"]
    assert forward(switch, "b", mac(3), mac(1)) == ["a"]
    assert forward(switch, "a", mac(4), mac(1)) == [], "behind the port it came from"


def test_addresses_age(switch):
    forward(switch, "a", mac(1), BROADCAST, now=0.0)
    assert forward(switch, "b", mac(2), mac(1), now=AGEING - 1) == ["a"]
    assert forward(switch, "b", mac(2), mac(1), now=AGEING) == ["a", "c", "dev"]
    assert switch.addresses("a", AGEING) == []


def test_a_frame_keeps_its_address_young(switch):
    forward(switch, "a", mac(1), BROADCAST, now=0.0)
    forward(switch, "a", mac(1), BROADCAST, now=200.0)
    assert forward(switch, "b", mac(2), mac(1), now=400.0) == ["a"]


def test_an_address_of_another_peer_cannot_be_taken(switch):
    forward(switch, "a", mac(1), BROADCAST, now=0.0)
    assert forward(switch, "b", mac(1), BROADCAST, now=299.0) is Reason.MAC_TAKEN
    assert forward(switch, "dev", mac(9), mac(1), now=299.0) == ["a"]
    assert forward(switch, "b", mac(1), BROADCAST, now=300.0) == ["a", "c", "dev"]
    assert forward(switch, "dev", mac(9), mac(1), now=300.0) == ["b"]


def test_an_address_of_the_device_cannot_be_taken_but_the_device_takes(switch):
    forward(switch, "dev", mac(1), BROADCAST)
    assert forward(switch, "a", mac(1), BROADCAST) is Reason.MAC_TAKEN
    forward(switch, "a", mac(2), BROADCAST)
    forward(switch, "dev", mac(2), BROADCAST)
    assert forward(switch, "b", mac(3), mac(2)) == ["dev"]
    assert switch.addresses("a", 1.0) == []


@pytest.mark.parametrize("last", range(16))
@pytest.mark.parametrize("port", ["a", "dev"])
def test_frames_of_the_link_itself_are_dropped_both_ways_and_teach_nothing(switch, port, last):
    assert forward(switch, port, mac(1), bytes.fromhex("0180c20000") + bytes((last,))) is Reason.BPDU
    assert switch.addresses(port, 1.0) == []


def test_other_groups_of_the_same_registry_pass(switch):
    assert forward(switch, "a", mac(1), bytes.fromhex("0180c2000010")) == ["b", "c", "dev"]


@pytest.mark.parametrize("source", [BROADCAST, MULTICAST])
def test_a_group_is_no_source(switch, source):
    assert forward(switch, "a", source, BROADCAST) is Reason.MALFORMED
    assert switch.addresses("a", 1.0) == []


def test_half_a_header_is_no_frame(switch):
    with pytest.raises(BadPacket, match="truncated"):
        switch.forward_untrusted(bytes(13), "a", 0.0)


def test_a_flood_of_addresses_fills_64_places_and_is_dropped(switch):
    forward(switch, "b", mac(1), BROADCAST)
    reasons = [forward(switch, "a", mac(number), mac(1)) for number in range(2, 10_000)]
    assert reasons[:MACS_PER_PEER] == [["b"]] * MACS_PER_PEER
    assert set(reasons[MACS_PER_PEER:]) == {Reason.MAC_LIMIT}
    assert len(switch.addresses("a", 1.0)) == MACS_PER_PEER
    assert len(switch._table) == MACS_PER_PEER + 1
    assert forward(switch, "a", mac(2), mac(1)) == ["b"], "known addresses go on working"


def test_aged_addresses_make_room(switch):
    for number in range(MACS_PER_PEER):
        forward(switch, "a", mac(number), BROADCAST, now=float(number))
    assert forward(switch, "a", mac(1000), BROADCAST, now=AGEING + 9.5) == ["b", "c", "dev"]
    assert len(switch.addresses("a", AGEING + 9.5)) == MACS_PER_PEER - 10 + 1


def test_the_device_has_many_addresses_and_the_silent_one_goes(switch):
    for number in range(MACS_OF_DEVICE):
        forward(switch, "dev", mac(number), BROADCAST)
    forward(switch, "dev", mac(0), BROADCAST)
    forward(switch, "dev", mac(MACS_OF_DEVICE), BROADCAST)
    assert len(switch.addresses("dev", 1.0)) == MACS_OF_DEVICE
    assert forward(switch, "a", mac(99_999), mac(0)) == ["dev"]
    assert forward(switch, "a", mac(99_999), mac(1)) == ["b", "c", "dev"]


def test_a_storm_is_cut_to_1000_a_second_for_its_peer_alone(switch):
    forward(switch, "dev", mac(9), BROADCAST, now=10.0)
    passed = 0
    for number in range(50_000):
        target = (BROADCAST, MULTICAST, mac(77))[number % 3]
        passed += forward(switch, "a", mac(1), target, now=10.0 + number / 50_000) is not Reason.STORM
    assert FLOODS_PER_SECOND < passed <= 2 * FLOODS_PER_SECOND
    assert forward(switch, "a", mac(1), mac(9), now=11.0) == ["dev"], "what goes to one port is not limited"
    assert forward(switch, "b", mac(2), BROADCAST, now=11.0) == ["a", "c", "dev"]
    assert forward(switch, "dev", mac(9), BROADCAST, now=11.0) == ["a", "b", "c"]


def test_the_device_is_not_limited(switch):
    assert all(forward(switch, "dev", mac(1), BROADCAST) == ["a", "b", "c"] for _ in range(3 * FLOODS_PER_SECOND))


def test_the_limit_of_addresses_is_the_operators():
    switch = Switch("dev", macs_per_peer=2)
    switch.add("a", now=0.0)
    assert [forward(switch, "a", mac(number), BROADCAST) for number in range(3)] == [["dev"]] * 2 + [Reason.MAC_LIMIT]


def test_any_traffic_leaves_bounded_tables_that_agree_with_each_other(switch):
    choose = random.Random(5)
    now = 0.0
    for _ in range(20_000):
        now += choose.choice((0.0, 0.01, 1.0, 40.0))
        port = choose.choice(("dev", "a", "b", "c"))
        forward(switch, port, mac(choose.randrange(300)), mac(choose.randrange(300)), now)
    seen = {address: port.name for port in switch._ports.values() for address in port.seen}
    assert seen == {address: port.name for address, port in switch._table.items()}
    assert sum(len(port.seen) for port in switch._ports.values()) == len(seen)
    assert all(len(switch._ports[peer].seen) <= MACS_PER_PEER for peer in "abc")
    assert all(sorted(port.seen.values()) == list(port.seen.values()) for port in switch._ports.values())
