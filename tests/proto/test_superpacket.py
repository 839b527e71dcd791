"""The fuzz sentence of super-packets: any body gives BadPacket, or at most 64 packets that fit the device."""

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.superpackets import ACK, CWR, ECE, FIN, FLOWS, PSH, Flow
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.superpacket import segments_untrusted, slice_untrusted

MOST = 1400
TCP4, TCP6 = Flow(), Flow(version=6)
UDP4, UDP6 = Flow(tcp=False), Flow(version=6, tcp=False)
KINDS = [
    replace(flow, ethernet=e, tagged=t) for flow in (TCP4, TCP6, UDP4, UDP6) for e, t in ((0, 0), (1, 0), (1, 1))
]
NAMES = [
    f"{'tcp' if flow.tcp else 'udp'}{flow.version}{'-frame' * flow.ethernet}{'-tagged' * flow.tagged}"
    for flow in KINDS
]


def segments(body, most=MOST, ethernet=False):
    return segments_untrusted(memoryview(body), most=most, ethernet=ethernet)


def one(body, counter, most=MOST, ethernet=False):
    return slice_untrusted(memoryview(body), counter, most=most, ethernet=ethernet)


def refused(call, *arguments, **options):
    with pytest.raises(BadPacket) as caught:
        call(*arguments, **options)
    return caught.value.reason


def payload_of(count, size, last, seed=1):
    return random.Random(seed).randbytes((count - 1) * size + last)


@given(FLOWS, st.integers(1, 64), st.integers(1, 1200), st.data())
def test_segments_and_slices_are_the_packets_that_were_joined(flow, count, size, data):
    size = min(size, 60_000 // count)
    payload = payload_of(count, size, data.draw(st.integers(1, size)), seed=count)
    packets = flow.segments(payload, size)
    assert len(packets) == count
    assert segments(flow.super_packet(payload, size), ethernet=flow.ethernet) == packets
    block = 64 * data.draw(st.integers(0, 2**50))
    slices = flow.slices(payload, size)
    assert [one(body, block + i, ethernet=flow.ethernet) for i, body in enumerate(slices)] == packets


def test_the_flags_of_the_first_and_the_last_stay_there():
    flow = replace(TCP4, flags=CWR | ECE | ACK | PSH | FIN)
    assert [packet[33] for packet in segments(flow.super_packet(bytes(30), 10))] == [
        CWR | ECE | ACK,
        ECE | ACK,
        ECE | ACK | PSH | FIN,
    ]


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
def test_what_a_sender_does_not_fill_in_is_not_looked_at(flow):
    payload = payload_of(3, 500, 7)
    body = bytearray(flow.super_packet(payload, 500, hdr_len=1))
    body[10 + flow.checksum_at : 12 + flow.checksum_at] = b"\xab\xcd"
    if flow.version == 4:
        body[20 + flow.network : 22 + flow.network] = b"\xab\xcd"
    assert segments(body, ethernet=flow.ethernet) == flow.segments(payload, 500)


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
def test_a_single_packet_gets_its_checksum_finished(flow):
    packet = flow.packet(b"some payload")
    body = flow.super_packet(b"some payload", 0, gso_type=0)
    assert segments(body, ethernet=flow.ethernet) == [packet]
    assert segments(body + bytes(9), ethernet=flow.ethernet) == [packet]


@pytest.mark.parametrize("flow", [TCP4, UDP4], ids=["tcp", "udp"])
def test_a_checksum_of_zero_is_none_at_all_in_udp(flow):
    payload = b"\0\0abcd"
    (check,) = struct.unpack_from("!H", flow.packet(payload), flow.checksum_at)
    payload = struct.pack("!H", check) + payload[2:]
    (packet,) = segments(flow.super_packet(payload, 0, gso_type=0))
    assert packet[flow.checksum_at :][:2] == (b"\0\0" if flow.tcp else b"\xff\xff")


def test_a_packet_without_offload_is_handed_on_as_it_is():
    nothing = bytes(10)
    icmp = b"\x45\x00\x00\x1c" + bytes(5) + b"\x01" + bytes(18)
    assert segments(nothing + icmp + b"padding") == [icmp]
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    assert segments(nothing + arp, most=60, ethernet=True) == [arp]
    assert segments(bytes((0, 0, 1, 1, 1, 1, 1, 1, 1, 1)) + icmp) == [icmp], "what goes with the flags is not read"


def test_ecn_is_for_tcp_alone():
    assert segments(TCP4.super_packet(bytes(30), 10, gso_type=0x81)) == TCP4.segments(bytes(30), 10)
    assert segments(TCP6.super_packet(bytes(30), 10, gso_type=0x84)) == TCP6.segments(bytes(30), 10)
    assert refused(segments, UDP4.super_packet(bytes(30), 10, gso_type=0x85)) is Reason.MALFORMED
    assert refused(segments, TCP4.super_packet(bytes(30), 10, gso_type=0x80)) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("flow", "wrong"),
    [
        *((TCP4, {"flags": flags}) for flags in (0, 2, 3, 4, 0x81)),
        *((TCP4, {"gso_type": kind}) for kind in (2, 3, 4, 5, 6, 0x21, 0x41, 0x84)),
        *((TCP6, {"gso_type": kind}) for kind in (1, 5, 0x81)),
        *((UDP4, {"gso_type": kind}) for kind in (1, 3, 4)),
        *((UDP6, {"gso_type": kind}) for kind in (1, 3, 4)),
        *((TCP4, {"csum_start": start}) for start in (0, 19, 21, 0xFFFF)),
        *((TCP4, {"csum_offset": offset}) for offset in (0, 6, 15, 0xFFFF)),
        (UDP6, {"csum_offset": 16}),
        (TCP4, {"gso_size": 0}),
    ],
)
def test_a_header_that_disagrees_with_its_packet_is_malformed(flow, wrong):
    payload = bytes(30)
    assert refused(segments, flow.super_packet(payload, 10, **wrong)) is Reason.MALFORMED
    assert refused(one, flow.slices(payload, 10, **wrong)[0], 0) is Reason.MALFORMED


@pytest.mark.parametrize("wrong", [{"flags": 2}, {"flags": 3}, {"csum_start": 0}, {"csum_offset": 6}])
def test_the_header_of_a_single_packet_is_compared_as_well(wrong):
    assert refused(segments, TCP4.super_packet(b"x", 0, gso_type=0, **wrong)) is Reason.MALFORMED


def test_what_cannot_be_parsed_gets_no_checksum():
    icmp = bytes.fromhex("01000000000014000600") + b"\x45\x00\x00\x1c" + bytes(5) + b"\x01" + bytes(18)
    assert refused(segments, icmp) is Reason.MALFORMED
    arp = bytes.fromhex("0100000000000e000600") + bytes(12) + b"\x08\x06" + bytes(46)
    assert refused(segments, arp, ethernet=True) is Reason.MALFORMED


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
def test_nothing_to_cut_is_malformed(flow):
    assert refused(segments, flow.super_packet(b"", 10), ethernet=flow.ethernet) is Reason.MALFORMED
    headers = flow.super_packet(b"", 10)
    assert refused(one, headers, 0, ethernet=flow.ethernet) is Reason.MALFORMED


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
def test_every_size_has_its_bound(flow):
    frame = flow.ethernet
    payload = bytes(640)
    assert len(segments(flow.super_packet(payload, 10), ethernet=frame)) == 64
    assert refused(segments, flow.super_packet(payload + b"x", 10), ethernet=frame) is Reason.MALFORMED
    most = flow.payload + 10
    assert len(segments(flow.super_packet(bytes(11), 10), most=most, ethernet=frame)) == 2
    assert refused(segments, flow.super_packet(bytes(11), 10), most=most - 1, ethernet=frame) is Reason.OVERSIZED
    assert segments(flow.super_packet(bytes(10), 0xFFFF), most=most, ethernet=frame) == [flow.packet(bytes(10))]
    whole = flow.super_packet(bytes(10), 0, gso_type=0)
    assert refused(segments, whole, most=most - 1, ethernet=frame) is Reason.OVERSIZED


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
@pytest.mark.parametrize("other", [{}, {"gso_type": 0}], ids=["gso", "none"])
def test_a_packet_that_is_cut_short_is_truncated(flow, other):
    body = flow.super_packet(bytes(30), 10, **other)
    for size in range(len(body)):
        assert refused(segments, body[:size], ethernet=flow.ethernet) is Reason.TRUNCATED
    assert segments(body + b"behind", ethernet=flow.ethernet) == segments(body, ethernet=flow.ethernet)


@pytest.mark.parametrize("flow", KINDS, ids=NAMES)
def test_a_share_of_any_other_length_drops_the_slice(flow):
    frame = flow.ethernet
    slices = flow.slices(payload_of(3, 10, 4), 10)
    for number, body in enumerate(slices):
        assert refused(one, body[:-1], number, ethernet=frame) is Reason.TRUNCATED
        assert refused(one, body + b"x", number, ethernet=frame) is Reason.MALFORMED
    assert refused(one, slices[2], 1, ethernet=frame) is Reason.TRUNCATED
    assert refused(one, slices[1], 2, ethernet=frame) is Reason.MALFORMED
    assert refused(one, slices[1], 64 + 3, ethernet=frame) is Reason.MALFORMED
    headers = flow.slices(bytes(20), 10)[0][:-10]
    assert refused(one, headers, 2, ethernet=frame) is Reason.MALFORMED, "there is nothing behind the last"
    for size in range(10 + flow.payload):
        assert refused(one, slices[0][:size], 0, ethernet=frame) is Reason.TRUNCATED


def test_a_slice_keeps_the_bounds_of_the_whole():
    body = TCP4.slices(bytes(641), 10)[0]
    assert refused(one, body, 0) is Reason.MALFORMED
    assert len(one(TCP4.slices(bytes(640), 10)[63], 63)) == TCP4.payload + 10
    body = TCP4.slices(bytes(30), 10)[0]
    assert refused(one, body, 0, most=TCP4.payload + 9) is Reason.OVERSIZED


def test_a_single_packet_is_no_slice():
    assert refused(one, TCP4.slices(bytes(10), 10, gso_type=0)[0], 0) is Reason.MALFORMED


def junk_of(choose):
    """A body of either kind of which a little is damaged, and what may be its counter, its device and its MTU."""
    flow = replace(choose.choice(KINDS), flags=choose.randrange(256), tcp_options=bytes(4 * choose.randrange(11)))
    size, number = choose.choice((1, 10, 100, 536, 1300)), choose.choice((0, 0, 1, 5))
    payload = bytes(choose.randint(number * size + 1, choose.choice((10, 60, 65)) * size) % 65_000)
    kind = choose.choice((flow.gso_type, flow.gso_type, 0))
    if choose.random() < 0.5:
        body = bytearray(flow.super_packet(payload, size, gso_type=kind))
    else:
        slices = flow.slices(payload, size, gso_type=kind)
        body = bytearray(slices[number % len(slices)])
    for _ in range(choose.choice((0, 1, 1, 2, 5))):
        at = choose.randrange(min(len(body), choose.choice((10, 10 + flow.payload, len(body)))))
        body[at] = choose.choice((0, 1, 6, 17, 0xFF, body[at] ^ 1 << choose.randrange(8), choose.randrange(256)))
    size = choose.choice((len(body), len(body), choose.randint(0, len(body))))
    return bytes(body[:size]), number, flow.ethernet ^ (choose.random() < 0.1)


def fuzz(count, seed):
    """How many bodies were taken, as super-packets and as slices."""
    choose = random.Random(seed)
    taken = [0, 0]
    for _ in range(count):
        body, number, ethernet = junk_of(choose)
        most = choose.choice((64, 600, MOST, MOST))
        for kind, cut in enumerate((segments, lambda *words, number=number: [one(words[0], number, *words[1:])])):
            try:
                packets = cut(body, most, ethernet)
            except BadPacket:
                continue
            taken[kind] += 1
            assert 1 <= len(packets) <= 64
            assert all(14 <= len(packet) <= most for packet in packets)
    return taken


@pytest.mark.volume
def test_20000_bodies_give_packets_that_fit_or_a_bad_packet():
    taken = fuzz(10_000, seed=21)
    assert all(500 < count < 5_000 for count in taken), taken


@pytest.mark.long
@pytest.mark.timeout(600)
def test_200000_bodies_give_packets_that_fit_or_a_bad_packet():
    fuzz(100_000, seed=22)
