from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lab.impairment import CAPACITY, CLEAN, Event, Impairment, Stream, Wire, flip

# Far apart, so that no flipped bit turns one into another.
DATAGRAMS = sorted(hashlib.sha256(number.to_bytes(2, "big")).digest() for number in range(2000))


def carried(wire: Wire, datagrams: list[bytes] = DATAGRAMS) -> list[bytes]:
    """All sent at 0.0, all collected at the end."""
    for datagram in datagrams:
        wire.enqueue(0.0, datagram)
    return wire.poll_deliver(60.0)


def test_a_clean_wire_delivers_everything_at_once_and_in_order():
    wire = Wire(1)
    wire.enqueue(5.0, b"a")
    wire.enqueue(5.0, b"b")
    assert wire.poll_timeout() == 5.0
    assert wire.poll_deliver(5.0) == [b"a", b"b"]
    assert wire.poll_timeout() is None


def test_a_delayed_datagram_is_due_exactly_then():
    wire = Wire(1, Impairment(delay=0.25))
    wire.enqueue(1.0, b"a")
    assert wire.poll_deliver(1.2499) == []
    assert wire.poll_timeout() == 1.25
    assert wire.poll_deliver(1.25) == [b"a"]


def test_jitter_stays_within_its_bound_and_reorders():
    wire = Wire(1, Impairment(delay=1.0, jitter=0.5))
    delivered = carried(wire)
    assert sorted(delivered) == DATAGRAMS
    assert delivered != DATAGRAMS
    wire.enqueue(0.0, b"a")
    deadline = wire.poll_timeout()
    assert deadline is not None
    assert 1.0 <= deadline < 1.5


@pytest.mark.parametrize(
    ("impairment", "event"),
    [
        (Impairment(loss=0.2), Event.LOST),
        (Impairment(reorder=0.2), Event.REORDERED),
        (Impairment(duplicate=0.2), Event.DUPLICATED),
        (Impairment(corrupt=0.2), Event.CORRUPTED),
    ],
)
def test_a_probability_is_met(impairment: Impairment, event: Event):
    wire = Wire(7, impairment)
    delivered = carried(wire)
    share = wire.counts[event] / len(DATAGRAMS)
    assert 0.17 < share < 0.23
    expected = {
        Event.LOST: len(DATAGRAMS) - wire.counts[event],
        Event.DUPLICATED: len(DATAGRAMS) + wire.counts[event],
    }
    assert len(delivered) == expected.get(event, len(DATAGRAMS)) == wire.counts[Event.DELIVERED]
    changed = sum((Counter(delivered) - Counter(DATAGRAMS)).values())
    assert changed == (wire.counts[event] if event in (Event.CORRUPTED, Event.DUPLICATED) else 0)


def test_a_reordered_datagram_is_overtaken_by_those_sent_within_hold():
    wire = Wire(3, Impairment(reorder=1.0, hold=0.01))
    wire.enqueue(0.0, b"late")
    wire.impairment = CLEAN
    wire.enqueue(0.005, b"early")
    wire.enqueue(0.02, b"after")
    assert wire.poll_deliver(1.0) == [b"early", b"late", b"after"]


def test_a_cut_wire_passes_nothing_until_it_is_mended():
    wire = Wire(1, Impairment(cut=True))
    assert carried(wire) == []
    assert wire.counts[Event.CUT] == len(DATAGRAMS)
    wire.impairment = CLEAN
    assert carried(wire, [b"a"]) == [b"a"]


def test_a_wire_holds_a_bounded_number():
    wire = Wire(1, Impairment(delay=1.0))
    for _ in range(CAPACITY + 5):
        wire.enqueue(0.0, b"x")
    assert wire.counts[Event.FULL] == 5
    assert len(wire.poll_deliver(2.0)) == CAPACITY


@given(
    seed=st.integers(0, 2**32),
    impairment=st.builds(
        Impairment,
        delay=st.floats(0, 1),
        jitter=st.floats(0, 1),
        loss=st.floats(0, 1),
        reorder=st.floats(0, 1),
        duplicate=st.floats(0, 1),
        corrupt=st.floats(0, 1),
    ),
    datagrams=st.lists(st.binary(max_size=20), max_size=30),
)
def test_the_same_seed_has_the_same_luck_and_every_datagram_is_accounted_for(seed, impairment, datagrams):
    first, second = Wire(seed, impairment), Wire(seed, impairment)
    delivered = carried(first, datagrams)
    assert delivered == carried(second, datagrams)
    counts = first.counts
    assert counts == second.counts
    assert counts[Event.SENT] - counts[Event.LOST] + counts[Event.DUPLICATED] == counts[Event.DELIVERED]


def test_changing_one_probability_does_not_shift_the_luck_of_another():
    lossy = carried(Wire(5, Impairment(loss=0.3)))
    both = carried(Wire(5, Impairment(loss=0.3, duplicate=0.5)))
    assert list(dict.fromkeys(both)) == lossy


def test_stream_pieces_keep_every_byte_and_never_overtake():
    stream = Stream(1, Impairment(delay=0.1, jitter=0.5, segment=3))
    data = bytes(range(256))
    pieces = stream.pieces(1.0, data) + stream.pieces(1.1, data)
    assert b"".join(piece for _, piece in pieces) == data + data
    assert {len(piece) for _, piece in pieces} == {3, 1}
    dues = [due for due, _ in pieces]
    assert dues == sorted(dues)
    assert dues[0] >= 1.1


def test_stream_corruption_flips_one_bit_of_a_piece():
    (piece,) = (piece for _, piece in Stream(1, Impairment(corrupt=1.0)).pieces(0.0, bytes(64)))
    assert int.from_bytes(piece, "big").bit_count() == 1


@pytest.mark.parametrize("wish", [Impairment(loss=0.1), Impairment(reorder=0.1), Impairment(duplicate=0.1)])
def test_a_stream_refuses_what_tcp_cannot_do(wish: Impairment):
    stream = Stream(1)
    with pytest.raises(ValueError, match="neither loses"):
        stream.impairment = wish


def test_flip_inverts_exactly_the_named_bit():
    assert flip(b"\x00\x00", 9) == b"\x00\x02"
    assert flip(b"\x00\x02", 9) == b"\x00\x00"
