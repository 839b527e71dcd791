import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.tai64n import NEVER, WHITENING, Stamper, StampGuard, later, seconds_between, stamp

NOON = 1_800_000_000.0
WALLS = st.floats(0, 4e9)


def test_a_stamp_is_tai64n():
    assert stamp(0.0).hex() == "400000000000000a00000000"
    assert stamp(1.0).hex() == "400000000000000b00000000"
    assert stamp(0x12345678 + 0.5).hex() == "40000000123456821d000000"


@pytest.mark.parametrize(
    ("nanoseconds", "same"),
    [(1, True), (WHITENING - 1, True), (WHITENING, False), (WHITENING + 1, False), (999_999_999, False)],
)
def test_a_stamp_hides_the_lower_24_bits_of_the_clock(nanoseconds, same):
    assert (stamp(nanoseconds / 1e9) == stamp(0.0)) is same


@pytest.mark.parametrize(
    ("microseconds", "later"), [(0.01, False), (10, False), (1_000, False), (10_000, False), (20_000, True)]
)
def test_whitening_is_as_coarse_as_in_wireguard_go(microseconds, later):
    start = 0.123456789
    assert (stamp(start + microseconds / 1e6) > stamp(start)) is later


@given(WALLS, WALLS)
def test_stamps_sort_as_time_does(one, other):
    assert (stamp(one) <= stamp(other)) or one > other


@given(st.lists(st.one_of(WALLS, st.just(NOON)), min_size=2, max_size=30))
def test_every_stamp_is_greater_than_the_one_before_whatever_the_clock_does(walls):
    stamper, guard = Stamper(), StampGuard()
    for wall in walls:
        label = stamper.next(wall)
        assert int.from_bytes(label[8:]) % WHITENING == 0
        assert int.from_bytes(label[8:]) < 1_000_000_000
        guard.take_untrusted(label)


def test_a_clock_that_fell_back_a_day_over_a_restart_locks_nobody_out():
    guard = StampGuard()
    before = Stamper()
    guard.take_untrusted(before.next(NOON))
    after = Stamper(before.floor)
    label = after.next(NOON - 86400)
    assert label == later(stamp(NOON), 1)
    guard.take_untrusted(label)
    guard.take_untrusted(after.next(NOON - 86399))


def test_the_floor_stands_until_something_was_sent():
    floor = stamp(NOON)
    assert Stamper(floor).floor == floor
    assert Stamper().floor == NEVER


def test_a_clock_that_went_on_is_followed():
    assert Stamper(stamp(NOON)).next(NOON + 60) == stamp(NOON + 60)


@pytest.mark.parametrize("age", [0, 1, 86400])
def test_a_stamp_that_is_not_newer_is_refused_and_changes_nothing(age):
    guard = StampGuard()
    guard.take_untrusted(stamp(NOON))
    with pytest.raises(BadPacket) as caught:
        guard.take_untrusted(stamp(NOON - age))
    assert caught.value.reason is Reason.OLD_TIMESTAMP
    assert guard.last == stamp(NOON)


def test_a_guard_that_was_reset_takes_an_older_stamp():
    guard = StampGuard()
    guard.take_untrusted(stamp(NOON + 1e9))
    guard.reset()
    guard.take_untrusted(stamp(NOON))


def test_the_distance_of_two_stamps_is_told_in_seconds():
    assert seconds_between(stamp(NOON), stamp(NOON + 90061)) == 90061
    assert seconds_between(stamp(NOON + 1), stamp(NOON)) == -1
    assert seconds_between(stamp(0.0), stamp(WHITENING / 1e9)) == WHITENING / 1e9


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=12, max_size=12))
def test_any_stamp_of_a_peer_can_be_compared(one, other):
    assert seconds_between(one, other) == -seconds_between(other, one)
    guard = StampGuard()
    for label in (one, other):
        try:
            guard.take_untrusted(label)
        except BadPacket:
            assert label <= guard.last
