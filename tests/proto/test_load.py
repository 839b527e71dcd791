import pytest

from tunneld.proto.load import LASTS, MESSAGES, PERIOD, Load


def flood(load, now, count=MESSAGES):
    return [load.heavy(now) for _ in range(count)]


def test_fifty_messages_at_once_are_no_load_and_one_more_is():
    load = Load()
    assert not any(flood(load, 100.0))
    assert load.heavy(100.0)


@pytest.mark.parametrize("rate", [10, 499])
def test_a_steady_rate_below_500_a_second_is_no_load(rate):
    load = Load()
    assert not any(load.heavy(number / rate) for number in range(2000))


def test_above_500_a_second_it_is_a_load_within_a_tenth_of_a_second():
    load = Load()
    heavy = [load.heavy(number / 1000) for number in range(2000)]
    assert heavy.index(True) == MESSAGES
    assert all(heavy[MESSAGES:])


def test_it_lasts_for_a_second_after_the_last_message_that_was_too_much():
    load = Load()
    flood(load, 100.0)
    assert load.heavy(100.05)
    assert load.heavy(100.05 + LASTS - 0.01)
    assert not load.heavy(100.05 + LASTS)
    assert PERIOD < LASTS


def test_messages_count_within_their_period_only():
    load = Load()
    assert not any(flood(load, 100.0) + flood(load, 100.5) + flood(load, 500.0))
