"""Whose packets are whose, and that the ledger knows of the rest."""

from ipaddress import ip_network

import pytest

from tests.proto.ends import ipv4
from tunneld.proto.errors import Reason
from tunneld.proto.events import Ledger, Refused
from tunneld.proto.handshake import Remote
from tunneld.proto.payload import BarePayload
from tunneld.proto.peer import Peer
from tunneld.proto.routing import HEADER_BYTES, CableRouting, CryptokeyRouting, SwitchRouting
from tunneld.proto.switch import FLOODS_PER_SECOND

BROADCAST = "ff:ff:ff:ff:ff:ff"
BPDU = "01:80:c2:00:00:00"


def peer(name, *prefixes):
    key = name.encode().ljust(32, b"\1")
    return Peer(name, Remote(key), BarePayload(max_packet=1400), allowed_ips=list(map(ip_network, prefixes)))


def frame(destination, source, body=b"x" * 46):
    octets = bytes.fromhex(destination.replace(":", "") + source.replace(":", ""))
    return octets + b"\x08\x00" + body


def divided(routing, packets, now=0.0):
    return {peer.name: list(part) for peer, part in routing.divide(packets, now)}


def admitted(routing, packets, peer, now=0.0):
    """What the device gets, and what other peers get, by name."""
    device, parts = routing.admit_untrusted([memoryview(packet) for packet in packets], peer, now)
    return list(map(bytes, device)), {peer.name: list(map(bytes, part)) for peer, part in parts}


@pytest.fixture
def ledger():
    return Ledger()


def test_packets_go_to_the_peer_with_the_longest_prefix_in_their_order(ledger):
    routing = CryptokeyRouting([peer("a", "10.0.0.0/8"), peer("b", "10.1.0.0/16", "192.168.0.0/24")], ledger)
    packets = [ipv4("172.16.0.1", to) for to in ("10.1.2.3", "10.2.0.1", "192.168.0.9", "10.9.9.9", "10.1.0.1")]
    assert divided(routing, packets) == {"a": [packets[1], packets[3]], "b": [packets[0], packets[2], packets[4]]}
    assert ledger.poll_event() is None


def test_a_packet_for_nobody_is_told_with_its_header(ledger):
    routing = CryptokeyRouting([peer("a", "10.0.0.0/8")], ledger)
    stray, garbage = ipv4("10.0.0.1", "8.8.8.8", b"x" * 100), b"\x00garbage"
    assert divided(routing, [garbage, stray]) == {}
    assert ledger.drops == {Reason.NO_ROUTE: 2}
    assert ledger.poll_event() == Refused(Reason.NO_ROUTE, "", None, stray[:HEADER_BYTES], 2)


def test_only_packets_from_the_sources_of_a_peer_come_in(ledger):
    a, b = peer("a", "10.0.0.0/8"), peer("b", "10.1.0.0/16")
    routing = CryptokeyRouting([a, b], ledger)
    good, stolen, foreign = (ipv4(source, "1.1.1.1") for source in ("10.2.0.1", "10.1.0.1", "8.8.8.8"))
    assert admitted(routing, [good, good], a) == ([good, good], {})
    assert ledger.poll_event() is None
    assert admitted(routing, [stolen, good, foreign], a) == ([good], {})
    assert ledger.poll_event() == Refused(Reason.WRONG_SOURCE, "a", None, foreign, 2)
    assert admitted(routing, [stolen], b) == ([stolen], {})
    assert ledger.drops == {Reason.WRONG_SOURCE: 2}


def test_a_peer_that_has_every_address_is_not_asked_about(ledger):
    only = peer("a", "0.0.0.0/0", "::/0")
    routing = CryptokeyRouting([only], ledger)
    packets = [ipv4("1.2.3.4", "5.6.7.8"), b"not even IP"]
    ((to, part),) = routing.divide(packets, 0.0)
    assert to is only
    assert part is packets
    views = [memoryview(packet) for packet in packets]
    assert routing.admit_untrusted(views, only, 0.0)[0] is views


def test_another_peer_beside_the_one_with_every_address_may_send_nothing(ledger):
    everything, nothing = peer("a", "0.0.0.0/0", "::/0"), peer("b")
    routing = CryptokeyRouting([everything, nothing], ledger)
    assert admitted(routing, [ipv4("1.2.3.4", "5.6.7.8")], nothing) == ([], {})
    assert ledger.drops == {Reason.WRONG_SOURCE: 1}


HOST_A, HOST_B, HOST_D = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0d"


@pytest.fixture
def hub(ledger):
    peers = [peer("a"), peer("b"), peer("c")]
    return SwitchRouting(peers, ledger, 2, 0.0), *peers


def test_frames_are_flooded_until_their_host_is_known(hub):
    routing, a, _, _ = hub
    first = frame(HOST_A, HOST_D)
    assert divided(routing, [first]) == {name: [first] for name in "abc"}
    assert admitted(routing, [frame(HOST_D, HOST_A)], a) == ([frame(HOST_D, HOST_A)], {})
    assert divided(routing, [first, first]) == {"a": [first, first]}


def test_frames_pass_from_peer_to_peer_and_not_to_the_device(hub):
    routing, a, b, _ = hub
    admitted(routing, [frame(BROADCAST, HOST_B)], b)
    direct, broadcast = frame(HOST_B, HOST_A), frame(BROADCAST, HOST_A)
    assert admitted(routing, [direct, broadcast], a) == ([broadcast], {"b": [direct, broadcast], "c": [broadcast]})


def test_what_the_switch_refuses_is_told_with_the_peer(hub, ledger):
    routing, a, b, _ = hub
    admitted(routing, [frame(BROADCAST, HOST_B)], b)
    frames = [frame(BPDU, HOST_A), frame(HOST_D, HOST_B), frame(HOST_D, HOST_A), b"short"]
    assert admitted(routing, frames, a)[0] == [frames[2]]
    refused = {Reason.BPDU: "a", Reason.MAC_TAKEN: "a", Reason.TRUNCATED: "a"}
    assert ledger.drops == dict.fromkeys(refused, 1)
    told = {event.reason: event.peer for event in iter(ledger.poll_event, None)}
    assert told == refused


def test_what_the_switch_refuses_of_the_device_is_only_counted(hub, ledger):
    routing, *_ = hub
    assert divided(routing, [frame(BPDU, HOST_D), frame(HOST_A, HOST_D)]).keys() == {"a", "b", "c"}
    assert ledger.drops == {Reason.BPDU: 1}
    assert ledger.poll_event() is None


def test_a_flood_of_hosts_behind_one_peer_ends_at_its_limit(hub, ledger):
    routing, a, b, _ = hub
    hosts = [f"02:00:00:00:01:{host:02x}" for host in range(100)]
    device, _ = admitted(routing, [frame(HOST_D, host) for host in hosts], a)
    assert len(device) == 2
    assert ledger.drops == {Reason.MAC_LIMIT: 98}
    assert admitted(routing, [frame(HOST_D, HOST_B)], b)[0]


@pytest.fixture
def cable(ledger):
    only = peer("a")
    return CableRouting(only, ledger), only


def test_a_cable_carries_everything_between_device_and_peer(cable):
    routing, only = cable
    frames = [frame(HOST_A, HOST_D), frame(BROADCAST, HOST_D), frame("33:33:00:00:00:01", HOST_D)]
    assert divided(routing, frames) == {"a": frames}
    assert admitted(routing, frames, only) == (frames, {})
    unicast = [memoryview(frames[0])]
    assert routing.admit_untrusted(unicast, only, 0.0)[0] is unicast


def test_a_cable_carries_nothing_that_stays_on_a_link(cable, ledger):
    routing, only = cable
    assert divided(routing, [frame(BPDU, HOST_D)]) == {}
    assert divided(routing, [frame(BPDU, HOST_D), frame(HOST_A, HOST_D)]) == {"a": [frame(HOST_A, HOST_D)]}
    assert ledger.poll_event() is None
    assert admitted(routing, [frame(BPDU, HOST_A), frame("01:80:c2:00:00:10", HOST_A)], only)[0] == [
        frame("01:80:c2:00:00:10", HOST_A)
    ]
    assert ledger.poll_event() == Refused(Reason.BPDU, "a", None, None, 1)
    assert ledger.drops == {Reason.BPDU: 3}


def test_a_storm_on_a_cable_is_cut_to_1000_a_second_and_unicast_is_not(cable, ledger):
    routing, only = cable
    storm, unicast = [frame(BROADCAST, HOST_A)] * 50, [frame(HOST_D, HOST_A)] * 50
    passed = 0
    for tick in range(1000):
        device, _ = admitted(routing, storm + unicast, only, tick / 1000)
        assert device[-50:] == unicast
        passed += len(device) - 50
    assert FLOODS_PER_SECOND * 2 - 2 <= passed <= FLOODS_PER_SECOND * 2
    assert ledger.drops == {Reason.STORM: 50_000 - passed}
    assert admitted(routing, storm, only, 3.0)[0] == storm
