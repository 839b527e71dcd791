"""What headers say, and that they are believed only as far as the bytes go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.superpackets import FLOWS, Flow
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.packet import TCP, UDP, Layout, frame_untrusted, ip_packet_untrusted, layout_untrusted

FRAME = Flow(ethernet=True)


def layout(packet, ethernet=False):
    return layout_untrusted(memoryview(packet), ethernet=ethernet)


def refused(packet, ethernet=False):
    with pytest.raises(BadPacket) as caught:
        layout(packet, ethernet)
    return caught.value.reason


def changed(packet, at, new):
    return packet[:at] + new + packet[at + len(new) :]


@given(FLOWS, st.binary(max_size=60))
def test_every_header_is_found(flow, payload):
    packet = flow.packet(payload)
    expected = Layout(flow.version, TCP if flow.tcp else UDP, flow.network, flow.transport, flow.payload, len(packet))
    assert layout(packet, flow.ethernet) == expected
    assert layout(packet + bytes(9), flow.ethernet) == expected, "what lies behind the end is no part of it"
    assert layout(packet[: flow.payload], flow.ethernet) == expected, "the headers are enough"


@given(FLOWS, st.data())
def test_headers_that_are_not_whole_are_truncated(flow, data):
    packet = flow.packet(b"payload")
    size = data.draw(st.integers(0, flow.payload - 1))
    assert refused(packet[:size], flow.ethernet) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("packet", "ethernet", "reason"),
    [
        (changed(Flow().packet(b""), 0, b"\x55"), False, Reason.NOT_IP),
        (changed(FRAME.packet(b""), 12, b"\x08\x06"), True, Reason.MALFORMED),
        (changed(FRAME.packet(b""), 12, b"\x88\xa8"), True, Reason.MALFORMED),
        (changed(replace(FRAME, tagged=True).packet(b""), 16, b"\x81\x00"), True, Reason.MALFORMED),
        (changed(FRAME.packet(b""), 14, b"\x55"), True, Reason.MALFORMED),
        (changed(FRAME.packet(b""), 12, b"\x86\xdd"), True, Reason.MALFORMED),
        (changed(replace(FRAME, version=6).packet(b""), 12, b"\x08\x00"), True, Reason.MALFORMED),
        (changed(Flow().packet(b""), 0, b"\x44"), False, Reason.MALFORMED),
        (b"\x44" + changed(Flow(tcp=False).packet(b""), 20, b"\x00\x0c")[1:], False, Reason.MALFORMED),
        (changed(Flow().packet(b""), 6, b"\x20\x00"), False, Reason.MALFORMED),
        (changed(Flow().packet(b""), 6, b"\x00\x01"), False, Reason.MALFORMED),
        (changed(Flow().packet(b""), 9, b"\x01"), False, Reason.MALFORMED),
        (changed(Flow(version=6).packet(b""), 6, b"\x00"), False, Reason.MALFORMED),
        (changed(Flow(version=6).packet(b""), 6, b"\x2c"), False, Reason.MALFORMED),
        (changed(Flow().packet(b""), 32, b"\x40"), False, Reason.MALFORMED),
        (changed(Flow(tcp=False).packet(b"xy"), 24, b"\x00\x09"), False, Reason.MALFORMED),
        (changed(Flow(tcp=False).packet(b"xy"), 24, b"\x00\x0b"), False, Reason.MALFORMED),
        (changed(Flow().packet(b""), 2, b"\x00\x00"), False, Reason.TRUNCATED),
        (changed(Flow().packet(b"pay"), 2, b"\x00\x33"), False, Reason.TRUNCATED),
        (changed(Flow(version=6).packet(b"pay"), 4, b"\x00\x1f"), False, Reason.TRUNCATED),
    ],
)
def test_headers_that_are_of_no_use_are_refused(packet, ethernet, reason):
    assert refused(packet, ethernet) is reason


def test_the_reserved_and_the_do_not_fragment_bit_make_no_fragment():
    assert layout(changed(Flow().packet(b""), 6, b"\xc0\x00")).protocol == TCP


def test_an_ip_packet_ends_where_it_says():
    packet = Flow().packet(b"payload")
    assert ip_packet_untrusted(memoryview(packet + b"more"), len(packet)) == packet
    with pytest.raises(BadPacket, match=r"^truncated$"):
        ip_packet_untrusted(memoryview(packet)[:-1], len(packet))
    with pytest.raises(BadPacket, match=r"^oversized$"):
        ip_packet_untrusted(memoryview(packet), len(packet) - 1)


def test_a_frame_has_a_header_and_fits():
    frame = memoryview(bytes(14))
    assert frame_untrusted(frame, 14) is frame
    with pytest.raises(BadPacket, match=r"^truncated$"):
        frame_untrusted(frame[1:], 14)
    with pytest.raises(BadPacket, match=r"^oversized$"):
        frame_untrusted(frame, 13)
