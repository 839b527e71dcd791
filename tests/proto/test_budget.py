import pytest

from tunneld.proto.budget import PER_SECOND, HandshakeBudget
from tunneld.proto.load import LASTS, MESSAGES
from tunneld.proto.ratelimiter import BURST, PACKET_COST

FLOODER, ANOTHER = b"\xcb\0\x71\1", b"\xc0\0\2\1"


def network(number: int) -> bytes:
    return (10 << 24 | number).to_bytes(4, "big")


def flooded(budget, seconds, per_second, address=lambda number: FLOODER, start=100.0):
    """How many were allowed, and when the last came."""
    moments = [start + number / per_second for number in range(int(seconds * per_second))]
    return sum(budget.allow(address(number), now) for number, now in enumerate(moments)), moments[-1]


@pytest.mark.parametrize("rate", [10, 499])
def test_below_500_a_second_one_network_may_have_them_all(rate):
    assert flooded(HandshakeBudget(), 4, rate)[0] == 4 * rate


def test_of_a_flood_one_network_has_20_a_second_and_others_are_let_in():
    budget = HandshakeBudget()
    allowed, now = flooded(budget, 10, 5000)
    assert allowed == MESSAGES + BURST // PACKET_COST + 20 * 10 - 1
    assert budget.allow(ANOTHER, now)
    assert not budget.allow(FLOODER, now)


@pytest.mark.parametrize(("networks", "most"), [(10, 200), (24, 480), (1000, PER_SECOND), (100_000, PER_SECOND)])
def test_of_a_flood_all_networks_together_have_500_a_second(networks, most):
    allowed, _ = flooded(HandshakeBudget(), 10, 5000, lambda number: network(number % networks))
    assert 0.9 * most * 10 < allowed <= MESSAGES + networks * BURST // PACKET_COST + most * 10
    assert allowed <= 2 * MESSAGES + PER_SECOND * 10


def test_who_floods_from_few_networks_keeps_nobody_else_out():
    budget = HandshakeBudget()
    for second in range(10):
        _, now = flooded(budget, 1, 5000, lambda number: network(number % 20), start=100.0 + second)
        assert all(budget.allow(bytes((192, 0, second, host)), now) for host in range(5))


def test_after_a_flood_everybody_is_let_in_again_and_nothing_is_kept():
    budget = HandshakeBudget()
    _, now = flooded(budget, 2, 5000, lambda number: network(number % 1000))
    assert len(budget._limiter) == 1000
    now += LASTS + 1
    budget.expire(now)
    assert len(budget._limiter) == 0
    assert all(budget.allow(FLOODER, now) for _ in range(MESSAGES))
