import random

from tunneld.proto.backoff import Backoff


def test_delays_double_from_0_2_to_30_s_within_their_jitter():
    backoff = Backoff(random.Random(0).random)
    step = 0.2
    for _ in range(20):
        assert max(0.2, step / 2) <= backoff.delay() <= step
        step = min(step * 2, 30.0)


def test_two_ends_do_not_march_in_step():
    one, two = Backoff(random.Random(1).random), Backoff(random.Random(2).random)
    assert [one.delay() for _ in range(8)][3:] != [two.delay() for _ in range(8)][3:]


def test_reset_starts_over():
    backoff = Backoff(lambda: 0.999)
    assert [round(backoff.delay(), 1) for _ in range(3)] == [0.2, 0.4, 0.8]
    backoff.reset()
    assert round(backoff.delay(), 1) == 0.2
