"""Each case is a transcript of counters and verdicts; the random ones are judged by a set that forgets nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.const import REJECT_AFTER_MESSAGES, WINDOW
from tunneld.proto.replay import ReplayWindow, Succession

LAST = REJECT_AFTER_MESSAGES - 1  # the highest counter that may ever be accepted
FAR = 5 * (WINDOW + 64)

# counter, whether it is accepted; one after the other into one window
TABLE = [
    (0, True), (0, False),                                         # the first counter, once
    (2, True), (1, True), (1, False), (2, False),                  # out of order by one
    (63, True), (64, True), (65, True), (64, False),               # over the border of a word of 64
    (40, True), (40, False),                                       # late, but within
    (WINDOW, True), (3, True), (3, False), (0, False),             # the newest is exactly a window ahead of 0
    (WINDOW + 4, True), (3, False), (4, True), (4, False),         # 3 has just left, 4 is the last inside
    (WINDOW + 4, False), (WINDOW + 3, True),
    (FAR, True), (FAR - WINDOW - 1, False), (FAR - WINDOW, True),  # a jump beyond everything held
    (FAR - WINDOW, False), (FAR - WINDOW + 1, True), (WINDOW + 2, False),
    (REJECT_AFTER_MESSAGES, False), (LAST, True), (LAST, False),   # the end of all counters
    (LAST - WINDOW, True), (LAST - WINDOW - 1, False),
    (REJECT_AFTER_MESSAGES + 1, False), (2**64 - 1, False), (FAR + 1, False),
]  # fmt: skip


BEYOND = WINDOW + 1
# The verdicts that the kernel's own test of its counters expects (drivers/net/wireguard/selftest/counter.c).
KERNEL = [
    (0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False),
    (BEYOND, True), (BEYOND - 1, True), (BEYOND - 1, False), (BEYOND - 2, True), (2, True), (2, False),
    (BEYOND + 16, True), (3, False), (BEYOND + 16, False),
    (4 * BEYOND, True), (3 * BEYOND + 1, True), (10, False), (3 * BEYOND, False), (3 * BEYOND - 1, False),
    (3 * BEYOND + 2, True), (3 * BEYOND + 1, False), (0, False),
    (REJECT_AFTER_MESSAGES, False), (LAST, True), (REJECT_AFTER_MESSAGES, False), (LAST, False), (LAST - 1, True),
    (REJECT_AFTER_MESSAGES + 1, False), (REJECT_AFTER_MESSAGES + 2, False), (LAST - 1, False), (LAST - 2, True),
    (0, False),
]  # fmt: skip


class NaiveWindow:
    """Remembers every counter it ever saw."""

    def __init__(self):
        self.seen = set()
        self.newest = -1

    def accept(self, counter):
        if counter >= REJECT_AFTER_MESSAGES or counter in self.seen or counter < self.newest - WINDOW:
            return False
        self.seen.add(counter)
        self.newest = max(self.newest, counter)
        return True


def test_the_limits_are_wireguards():
    assert (WINDOW, REJECT_AFTER_MESSAGES) == (8128, 18446744073709543486)


@pytest.mark.parametrize("table", [TABLE, KERNEL], ids=["ours", "kernel"])
@pytest.mark.parametrize("rule", [ReplayWindow, NaiveWindow])
def test_every_step_of_the_tables(rule, table):
    window = rule()
    assert [(counter, window.accept(counter)) for counter, _ in table] == table


BULK = {
    "up from 1, then the 0 that is a whole window old": ([*range(1, WINDOW + 1), 0], []),
    "up from 2: 1 is in, 0 is out": ([*range(2, WINDOW + 2), 1], [0]),
    "down from a window to 0": (range(WINDOW, -1, -1), []),
    "down from beyond a window: 0 is out": (range(WINDOW + 1, 0, -1), [0]),
    "down, then one up shuts 0 out": ([*range(WINDOW, 0, -1), WINDOW + 1], [0]),
    "down, 0, then one up": ([*range(WINDOW, -1, -1), WINDOW + 1], [0]),
}


@pytest.mark.parametrize(("accepted", "refused"), BULK.values(), ids=BULK)
def test_a_whole_window_in_order_and_backwards(accepted, refused):
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in accepted)
    assert not any(window.accept(counter) for counter in refused)
    assert not any(window.accept(counter) for counter in accepted), "each of them once only"


@pytest.mark.parametrize("depth", [1, 2, 63, 64, 65, 1000, 8000])
def test_messages_that_are_late_by_up_to_8000_are_all_accepted_once(depth):
    counters = [start + offset for start in range(0, 40_000, depth + 1) for offset in range(depth, -1, -1)]
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in counters)


@pytest.mark.parametrize("depth", [1, 2, 64, 125])
def test_blocks_of_64_that_are_late_by_up_to_125_are_all_accepted_once(depth):
    blocks = [start + offset for start in range(0, 600, depth + 1) for offset in range(depth, -1, -1)]
    counters = [64 * block + slice_ for block in blocks for slice_ in range(44)]
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in counters)


@pytest.mark.parametrize("jump", [WINDOW, 8191, 8192, 8193, 8194, 16_384, 16_385])
@pytest.mark.parametrize("newest", [0, 5, 8191, 8192, 12_000])
def test_a_jump_forgets_all_that_its_ring_held_a_round_ago(newest, jump):
    window = ReplayWindow()
    for counter in range(newest + 1):
        window.accept(counter)
    assert window.accept(newest + jump)
    skipped = range(max(newest + 1, newest + jump - WINDOW), newest + jump)
    assert all(window.accept(counter) for counter in skipped)
    assert not any(window.accept(counter) for counter in range(newest + 1))


def agree(steps, seed):
    """Random walks with small and large jumps, both ways, held against the model."""
    random_source = random.Random(seed)
    window, model = ReplayWindow(), NaiveWindow()
    for _ in range(steps):
        reach = random_source.choice((3, 64, 200, WINDOW - 2, WINDOW + 2, 8192, 8193, 20_000))
        counter = max(0, model.newest + random_source.randint(-reach, min(reach, 70) if reach < 8000 else reach))
        assert window.accept(counter) == model.accept(counter), counter


@pytest.mark.volume
def test_random_counters_agree_with_the_model():
    agree(100_000, seed=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_random_counters_agree_with_the_model():
    agree(1_000_000, seed=2)


@given(st.lists(st.integers(0, 30_000) | st.integers(LAST - 9000, 2**64 - 1), max_size=60))
def test_any_counters_agree_with_the_model(counters):
    window, model = ReplayWindow(), NaiveWindow()
    assert [window.accept(counter) for counter in counters] == [model.accept(counter) for counter in counters]


def test_on_a_stream_only_the_next_counter_is_accepted():
    succession = Succession()
    assert [succession.accept(counter) for counter in (1, 0, 0, 2, 1, 2, 2**64 - 1, 3)] == [
        False, True, False, False, True, True, False, True,
    ]  # fmt: skip


def test_a_stream_ends_with_its_counters():
    succession = Succession()
    succession._next = LAST
    assert succession.accept(LAST)
    assert not succession.accept(REJECT_AFTER_MESSAGES)
