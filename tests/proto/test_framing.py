"""The fuzz sentence of framing: however the bytes are split, the same records come out, and never anything else."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto import framing
from tunneld.proto.errors import Reason
from tunneld.proto.framing import TURN_RECORDS, StreamDecoder

RECORDS = st.lists(st.binary(max_size=300) | st.sampled_from([b"", b"x", bytes(2001), bytes(65_535)]), max_size=12)


def plain_encode(records):
    out = b""
    for record in records:
        out += len(record).to_bytes(2, "big") + record
    return out


def plain_split(data):
    """One record at a time, the obvious way."""
    records = []
    while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
        length = int.from_bytes(data[:2], "big")
        records.append(data[2 : 2 + length])
        data = data[2 + length :]
    return records, data


def feed(decoder, data, sizes):
    records = []
    at = 0
    for size in sizes:
        while size and at < len(data):
            space = decoder.space()
            piece = data[at : at + min(size, len(space))]
            space[: len(piece)] = piece
            records += map(bytes, decoder.received_untrusted(len(piece)))
            while decoder.more:
                records += map(bytes, decoder.received_untrusted(0))
            at += len(piece)
            size -= len(piece)
    return records


@given(RECORDS)
def test_encode_is_length_then_bytes(records):
    assert framing.encode(records) == plain_encode(records)


def test_a_record_longer_than_the_prefix_can_say_is_our_bug():
    with pytest.raises(struct.error):
        framing.encode([bytes(65_536)])


@given(RECORDS, st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_every_split_of_the_stream_gives_the_same_records(records, sizes):
    data = plain_encode(records)
    decoder = StreamDecoder(capacity=65_537)
    assert feed(decoder, data, [*sizes, len(data)]) == records
    assert decoder.pending == 0


@given(RECORDS)
def test_one_byte_at_a_time_gives_the_same_records(records):
    data = plain_encode([record[:40] for record in records])
    assert feed(StreamDecoder(), data, [1] * len(data)) == [record[:40] for record in records]


@given(st.binary(max_size=4000), st.lists(st.integers(1, 700), min_size=1))
def test_junk_is_cut_as_the_obvious_reader_cuts_it_and_memory_stays_bounded(junk, sizes):
    decoder = StreamDecoder(capacity=65_537)
    expected, rest = plain_split(junk)
    assert feed(decoder, junk, [*sizes, len(junk)]) == expected
    assert decoder.pending == len(rest)
    assert len(decoder.space()) == 65_537 - len(rest)


def test_records_are_handed_out_in_small_turns():
    """Whatever each of them holds is dealt with before anybody else has a turn."""
    decoder = StreamDecoder()
    data = plain_encode([bytes((number,)) for number in range(TURN_RECORDS * 2 + 1)])
    decoder.space()[: len(data)] = data
    turns = [[*map(bytes, decoder.received_untrusted(len(data)))]]
    while decoder.more:
        turns.append([*map(bytes, decoder.received_untrusted(0))])
    assert [len(turn) for turn in turns] == [TURN_RECORDS, TURN_RECORDS, 1]
    assert b"".join(map(b"".join, turns)) == bytes(range(TURN_RECORDS * 2 + 1))


def test_a_turn_that_took_all_leaves_nothing_for_another():
    decoder = StreamDecoder()
    data = plain_encode([b"x"] * TURN_RECORDS) + b"\0"
    decoder.space()[: len(data)] = data
    assert len(decoder.received_untrusted(len(data))) == TURN_RECORDS
    assert not decoder.more


def test_space_is_never_empty_even_behind_the_longest_record():
    decoder = StreamDecoder(capacity=65_537)
    space = decoder.space()
    space[:2] = b"\xff\xff"
    assert decoder.received_untrusted(65_536) == []
    assert len(decoder.space()) == 1
    assert [len(record) for record in decoder.received_untrusted(1)] == [65_535]
    assert len(decoder.space()) == 65_537


def test_a_buffer_too_small_for_the_longest_record_is_refused():
    with pytest.raises(ValueError, match="cannot hold"):
        StreamDecoder(capacity=65_536)


@given(RECORDS, st.integers(1, 70_000))
def test_groups_keep_order_and_share_a_piece_only_within_the_limit(records, limit):
    pieces = framing.group(records, limit)
    assert b"".join(pieces) == plain_encode(records)
    for piece in pieces:
        assert len(piece) <= limit or len(plain_split(piece)[0]) == 1


def test_groups_are_as_few_as_order_allows():
    assert [len(piece) for piece in framing.group([bytes(100)] * 10, 306)] == [306, 306, 306, 102]
    assert framing.group([], 100) == []


@given(RECORDS)
def test_a_datagram_splits_into_what_was_put_in(records):
    split, fault = framing.split_untrusted(plain_encode(records))
    assert (list(map(bytes, split)), fault) == (records, None)


@given(st.binary(max_size=600))
def test_a_junk_datagram_gives_its_whole_records_and_at_most_one_fault(junk):
    split, fault = framing.split_untrusted(junk)
    expected, rest = plain_split(junk)
    assert list(map(bytes, split)) == expected
    assert (fault is not None) == bool(rest)
    assert fault is None or fault.reason is Reason.TRUNCATED


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x05abcd"])
def test_whole_records_before_a_cut_one_stand(tail):
    split, fault = framing.split_untrusted(b"\x00\x02ok" + tail)
    assert list(map(bytes, split)) == [b"ok"]
    assert fault is not None
