"""The fuzz sentence of payloads: any plaintext gives packets that fit the device, and counts; never anything else."""

import json
import random
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.errors import Reason
from tunneld.proto.payload import KEEPALIVE, BarePayload, KindPayload

MTU = 1400
SUPER_PACKETS = json.loads((Path(__file__).parents[2] / "docs/vectors/superpackets.json").read_text())


def ipv4(size, fill=0x55):
    """An IPv4 packet of `size` bytes, as far as anybody here looks."""
    return b"\x45\x00" + size.to_bytes(2, "big") + bytes((fill,)) * (size - 4)


def ipv6(size, fill=0x66):
    return b"\x60\x00\x00\x00" + (size - 40).to_bytes(2, "big") + bytes((fill,)) * (size - 6)


def bare(mtu=MTU):
    return BarePayload(max_packet=mtu)


def kinds(mtu=MTU, most=1440, ethernet=False):
    return KindPayload(max_packet=mtu + 14 * ethernet, max_plaintext=most, ethernet=ethernet)


def record(packet):
    return len(packet).to_bytes(2, "big") + packet


def unpacked(payload, *plaintexts, counters=None):
    """The packets as bytes; `drops` of the payload has the rest."""
    return [bytes(packet) for packet in payload.unpack_untrusted(plaintexts, counters).packets]


PACKETS = st.builds(
    lambda make, size, fill: make(size, fill),
    st.sampled_from([ipv4, ipv6]),
    st.integers(40, MTU),
    st.integers(0, 255),
)


@given(st.lists(PACKETS, max_size=20))
def test_bare_packets_come_out_as_they_went_in_padded_within_the_mtu(packets):
    payload = bare()
    plaintexts = payload.pack(packets)
    for packet, plaintext in zip(packets, plaintexts, strict=True):
        assert plaintext == packet + bytes(len(plaintext) - len(packet))
        multiple = -(-len(packet) // 16) * 16
        assert len(plaintext) == (multiple if multiple <= MTU else len(packet))
    assert unpacked(payload, *plaintexts) == packets
    assert not payload.drops


@pytest.mark.parametrize(
    ("size", "mtu", "padded"),
    [
        (20, 1420, 32),
        (32, 1420, 32),
        (1409, 1420, 1409),
        (1297, 1300, 1297),
        (1404, 1420, 1408),
        (1420, 1420, 1420),
        (1500, 1420, 1500),
    ],
)
def test_padding_that_would_pass_the_mtu_is_left_out(size, mtu, padded):
    assert [len(plaintext) for plaintext in bare(mtu).pack([ipv4(size)])] == [padded]


def test_what_needs_no_padding_is_not_copied():
    packet = memoryview(ipv4(64))
    assert bare().pack([packet])[0] is packet


@given(st.lists(PACKETS, max_size=30), st.integers(200, 3000))
def test_packets_share_plaintexts_within_the_limit_in_order(packets, most):
    payload = kinds(most=most)
    plaintexts = payload.pack(packets)
    assert unpacked(payload, *plaintexts) == packets
    assert not payload.drops
    for plaintext in plaintexts:
        held = len(unpacked(payload, plaintext))
        assert len(plaintext) <= most or held == 1
        assert len(plaintext) % 16 == 0 or len(plaintext) >= most
    for first, second in pairwise(plaintexts):
        head = unpacked(payload, second)[0]
        whole = sum(2 + len(packet) for packet in unpacked(payload, first)) + 1
        assert whole + 2 + len(head) > most, "the next packet would have fitted"


def test_a_plaintext_is_filled_to_its_last_byte():
    assert list(map(len, kinds(most=1 + 2 * 102).pack([ipv4(100)] * 3))) == [205, 112]
    assert list(map(len, kinds(most=204).pack([ipv4(100)] * 2))) == [112, 112]


def test_the_wire_of_aggregated_packets():
    payload = kinds(ethernet=True)
    frames = [b"a" * 14, b"b" * 15]
    assert payload.pack(frames) == [b"\x01" + record(frames[0]) + record(frames[1]) + bytes(14)]
    assert unpacked(payload, *payload.pack(frames)) == frames


def test_nothing_to_send_makes_no_message():
    assert kinds().pack([]) == []
    assert bare().pack([]) == []


def test_a_packet_that_no_length_can_say_is_our_bug():
    with pytest.raises(struct.error):
        kinds().pack([bytes(65_536)])


@pytest.mark.parametrize("payload", [bare(), kinds()], ids=["bare", "kinds"])
def test_a_keepalive_holds_nothing_and_is_no_fault(payload):
    assert unpacked(payload, KEEPALIVE) == []
    assert not payload.drops


def test_control_bodies_are_padded_and_handed_up():
    payload = kinds()
    plaintext = payload.control(b"body")
    assert plaintext == b"\x04body" + bytes(11)
    assert [bytes(body) for body in payload.unpack_untrusted([plaintext]).control] == [b"body" + bytes(11)]
    assert len(kinds(most=20).control(bytes(17))) == 20


@pytest.mark.parametrize(
    ("counters", "kind"),
    [*(([64, 65], kind) for kind in (0, 2, 5, 6, 255)), *((None, kind) for kind in (0, 3, 5, 6))],
)
def test_kinds_that_are_not_known_are_counted_and_harm_nothing(counters, kind):
    payload = kinds()
    good = payload.pack([ipv4(60)])[0]
    assert unpacked(payload, bytes((kind,)) + bytes(99), good, counters=counters) == [ipv4(60)]
    assert payload.drops == {Reason.UNKNOWN_KIND: 1}


@pytest.mark.parametrize("vector", SUPER_PACKETS["accepted"], ids=lambda vector: vector["name"])
def test_a_super_packet_and_its_slices_are_taken_for_the_packets_they_stand_for(vector):
    ethernet = vector["mode"] == "tap"
    payload, frame = kinds(ethernet=ethernet), bytes(12) + b"\x88\xb5" + bytes(46)
    other = frame if ethernet else ipv4(60)
    packets = [bytes.fromhex(packet) for packet in vector["packets"]]
    (before,) = payload.pack([other])
    assert unpacked(payload, before, bytes.fromhex(vector["super_packet"]), before) == [other, *packets, other]
    slices = [bytes.fromhex(part["plaintext"]) for part in vector["slices"]]
    counters = [part["counter"] for part in vector["slices"]]
    assert unpacked(payload, before, *slices, counters=[639, *counters]) == [other, *packets]
    assert unpacked(payload, *slices[::-1], before, counters=[*counters[::-1], 704]) == [*packets[::-1], other]
    assert not payload.drops


@pytest.mark.parametrize("vector", SUPER_PACKETS["refused"], ids=lambda vector: vector["name"])
def test_a_super_packet_or_slice_that_is_bad_is_counted_and_its_neighbours_stand(vector):
    payload, plaintext, number = kinds(), bytes.fromhex(vector["plaintext"]), vector["counter"]
    (good,) = payload.pack([ipv4(60)])
    counters = None if number is None else [0, number, 1]
    assert unpacked(payload, good, plaintext, good, counters=counters) == [ipv4(60)] * 2
    assert payload.drops == {Reason(vector["reason"]): 1}


def test_segments_keep_to_the_device():
    (vector, *_) = SUPER_PACKETS["accepted"]
    payload = kinds(mtu=43)
    assert unpacked(payload, bytes.fromhex(vector["super_packet"])) == []
    assert unpacked(payload, bytes.fromhex(vector["slices"][0]["plaintext"]), counters=[0]) == []
    assert payload.drops == {Reason.OVERSIZED: 2}


BAD_PACKETS = [
    (b"\x45", Reason.TRUNCATED),
    (ipv4(20)[:-1], Reason.TRUNCATED),
    (ipv4(100)[:-1], Reason.TRUNCATED),
    (ipv6(40)[:-1], Reason.TRUNCATED),
    (b"\x45\x00\x00\x13" + bytes(60), Reason.TRUNCATED),
    (b"\x60\x00\x00\x00\xff\xff" + bytes(60), Reason.TRUNCATED),
    (ipv4(MTU + 1), Reason.OVERSIZED),
    (ipv6(MTU + 1), Reason.OVERSIZED),
    (bytes(60), Reason.NOT_IP),
    (b"\x50" + bytes(60), Reason.NOT_IP),
    (b"\xff" * 60, Reason.NOT_IP),
]


@pytest.mark.parametrize(("packet", "reason"), BAD_PACKETS)
def test_bad_packets_are_counted_and_their_neighbours_stand(packet, reason):
    payload = bare()
    assert unpacked(payload, ipv4(60), packet, ipv6(60)) == [ipv4(60), ipv6(60)]
    assert payload.drops == {reason: 1}
    payload = kinds()
    assert unpacked(payload, b"\x01" + record(ipv4(60)) + record(packet) + record(ipv6(60))) == [ipv4(60), ipv6(60)]
    assert payload.drops == {reason: 1}


@pytest.mark.parametrize(("frame", "reason"), [(bytes(13), Reason.TRUNCATED), (bytes(MTU + 15), Reason.OVERSIZED)])
def test_bad_frames_are_counted_and_their_neighbours_stand(frame, reason):
    payload = kinds(ethernet=True)
    whole = bytes(MTU + 14)
    assert unpacked(payload, b"\x01" + record(frame) + record(whole)) == [whole]
    assert payload.drops == {reason: 1}


@pytest.mark.parametrize(("ethernet", "reason"), [(False, Reason.NOT_IP), (True, Reason.TRUNCATED)])
def test_after_16_faults_the_rest_of_a_plaintext_is_left(ethernet, reason):
    fault = bytes(13) if ethernet else b"\x50" + bytes(19)
    payload = kinds(ethernet=ethernet)
    plaintext = b"\x01" + record(fault) * 15 + record(ipv4(60)) + record(fault) + record(ipv6(60))
    assert unpacked(payload, plaintext, plaintext) == [ipv4(60)] * 2
    assert payload.drops == {reason: 32}


def test_packets_that_are_oversized_are_no_faults():
    payload = kinds()
    plaintext = b"\x01" + record(ipv4(MTU + 1)) * 20 + record(ipv4(60))
    assert unpacked(payload, plaintext) == [ipv4(60)]
    assert payload.drops == {Reason.OVERSIZED: 20}


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_what_lies_behind_the_stated_length_is_cut_off(make):
    assert unpacked(bare(), make(41) + bytes(7)) == [make(41)]
    assert unpacked(kinds(), b"\x01" + record(make(41) + b"secret")) == [make(41)]


def test_a_record_that_is_cut_short_ends_its_plaintext():
    payload = kinds()
    assert unpacked(payload, b"\x01" + record(ipv4(60)) + record(ipv4(60))[:-1]) == [ipv4(60)]
    assert payload.drops == {Reason.TRUNCATED: 1}


def test_a_length_of_0_begins_the_padding_and_ends_the_packets():
    payload = kinds()
    assert unpacked(payload, b"\x01" + record(ipv4(60)) + b"\0\0" + record(ipv4(60)), b"\x01", b"\x01\x00") == [
        ipv4(60)
    ]
    assert not payload.drops


def junk_of(choose):
    """Noise, or records of packets of which some are damaged, behind any kind."""
    if choose.random() < 0.2:
        return choose.randbytes(choose.randint(0, 200))
    records = bytearray(choose.choice((b"\x01", b"\x01", b"\x01", b"", b"\x04", bytes((choose.randrange(256),)))))
    for _ in range(choose.randint(0, 4)):
        packet = choose.choice((ipv4, ipv6))(choose.randint(40, choose.choice((80, MTU + 2))))
        records += choose.choice((record(packet), packet, record(choose.randbytes(choose.randint(0, 40)))))
    for _ in range(choose.randint(0, 3)):
        if records:
            records[choose.randrange(len(records))] = choose.choice((0, 0xFF, 0x45, 0x60, choose.randrange(256)))
    return bytes(records[: choose.choice((len(records), choose.randint(0, len(records))))])


def fuzz(count, seed):
    choose = random.Random(seed)
    payloads = bare(), kinds(), kinds(ethernet=True)
    for _ in range(count):
        plaintext = memoryview(bytearray(junk_of(choose)))
        for payload in payloads:
            held = payload.unpack_untrusted([plaintext], choose.choice((None, [choose.randrange(128)])))
            assert sum(map(len, held.packets)) + sum(map(len, held.control)) <= len(plaintext)
            least, most = (20, MTU) if payload.max_packet == MTU else (14, MTU + 14)
            for packet in held.packets:
                assert least <= len(packet) <= most
                assert least == 14 or packet[0] >> 4 in (4, 6)


@pytest.mark.volume
def test_20000_plaintexts_give_packets_that_fit_and_nothing_else():
    fuzz(20_000, seed=11)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_200000_plaintexts_give_packets_that_fit_and_nothing_else():
    fuzz(200_000, seed=12)
