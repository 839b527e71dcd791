from ipaddress import ip_address

import pytest

from tests.proto.keys import numbers
from tunneld.proto.ratelimiter import MAX_ENTRIES, RateLimiter

REFILL = 1 / 20

# Seconds to wait, and whether one more message is allowed then.
STEPS = [
    *[(0.0, True)] * 5,  # the burst
    (0.0, False),
    (REFILL, True),
    (0.0, False),
    (2 * REFILL, True),
    (0.0, True),
    (0.0, False),
]

STARTS = [0.0, 0.7, 1234567.89]


def address(text):
    return ip_address(text).packed


@pytest.mark.parametrize("start", STARTS)
def test_five_at_once_then_twenty_a_second_for_each_address_alone(start):
    limiter = RateLimiter()
    addresses = [address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:2::1")]
    now = start
    for wait, allowed in STEPS:
        now += wait
        assert [limiter.allow(one, now) for one in addresses] == [allowed] * len(addresses)


def test_what_is_refused_costs_nothing():
    limiter = RateLimiter()
    allowed = [limiter.allow(b"\x01\x02\x03\x04", tick / 100) for tick in range(1000)]
    assert sum(allowed) == 5 + 199


def test_a_64_of_ipv6_is_one_sender():
    limiter = RateLimiter()
    random = numbers(1)
    prefix = address("2001:db8:1:2::")[:8]
    assert sum(limiter.allow(prefix + random(8), 0.0) for _ in range(100)) == 5
    assert limiter.allow(address("2001:db8:1:3::"), 0.0)


def test_mapped_ipv4_addresses_are_many_senders():
    limiter = RateLimiter()
    for _ in range(5):
        assert limiter.allow(address("::ffff:192.0.2.1"), 0.0)
    assert not limiter.allow(address("192.0.2.1"), 0.0)
    assert limiter.allow(address("::ffff:192.0.2.2"), 0.0)


def test_the_table_is_bounded_and_a_full_one_still_serves_those_in_it():
    limiter = RateLimiter()
    addresses = [number.to_bytes(4) for number in range(MAX_ENTRIES + 1000)]
    assert sum(limiter.allow(one, 0.0) for one in addresses) == len(limiter) == MAX_ENTRIES
    assert limiter.allow(addresses[0], 0.5)
    assert not limiter.allow(addresses[-1], 0.5)
    assert limiter.allow(addresses[-1], 1.1)


def test_entries_go_a_second_after_their_last_use_in_small_steps():
    limiter = RateLimiter()
    for number in range(100):
        limiter.allow(number.to_bytes(4), 0.0)
    limiter.allow((0).to_bytes(4), 0.5)
    limiter.allow((0).to_bytes(4), 1.0)
    assert len(limiter) == 100
    limiter.allow((0).to_bytes(4), 1.1)
    assert len(limiter) == 96
    limiter.expire(1.1)
    assert len(limiter) == 1
    limiter.expire(2.2)
    limiter.expire(2.2)
    assert len(limiter) == 0


def test_an_entry_that_went_was_full():
    limiter, twin = RateLimiter(), RateLimiter()
    for one in (limiter, twin):
        for _ in range(6):
            one.allow(b"aaaa", 0.0)
    limiter.expire(1.01)
    assert len(limiter) == 0
    assert [limiter.allow(b"aaaa", 1.01) for _ in range(6)] == [twin.allow(b"aaaa", 1.01) for _ in range(6)]
