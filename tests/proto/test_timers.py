"""The moments and deadlines of docs/PROTOCOL.md 7.5.2, one timer after the other."""

import random

import pytest

from tunneld.proto.const import KEEPALIVE_TIMEOUT, REKEY_JITTER, REKEY_TIMEOUT
from tunneld.proto.timers import Timer, Timers

RETRANSMIT, KEEPALIVE, NEW, PERSISTENT = (
    Timer.RETRANSMIT_HANDSHAKE,
    Timer.SEND_KEEPALIVE,
    Timer.NEW_HANDSHAKE,
    Timer.PERSISTENT_KEEPALIVE,
)


def timers(persistent=0.0, jitter=0.0):
    return Timers(persistent_keepalive=persistent, jitter=lambda: jitter)


def due_at(these, start=0.0, end=200.0):
    """What fires until `end`, by the moments that poll_timeout gives and by no other."""
    fired = []
    while (deadline := these.poll_timeout()) is not None and deadline[0] <= end:
        now = deadline[0]
        assert now >= start
        fired += [(now, timer) for timer in these.handle_timeout(now)]
    return fired


def test_nothing_is_due_before_anything_happened():
    assert timers(persistent=25.0).poll_timeout() is None
    assert timers(persistent=25.0).handle_timeout(1e9) == []


def test_an_initiation_is_repeated_after_five_seconds_and_a_jitter():
    these = timers(jitter=0.5)
    these.handshake_initiated(100.0)
    assert these.poll_timeout() == (100 + REKEY_TIMEOUT + REKEY_JITTER / 2, "the initiation stayed unanswered")
    assert these.handle_timeout(105.0) == []
    assert due_at(these) == [(100 + REKEY_TIMEOUT + REKEY_JITTER / 2, RETRANSMIT)]


def test_the_jitter_is_drawn_anew_and_stays_below_a_third_of_a_second():
    these = Timers(persistent_keepalive=0.0, jitter=random.Random(1).random)
    delays = set()
    for _ in range(100):
        these.handshake_initiated(0.0)
        delays.add(these.poll_timeout()[0] - REKEY_TIMEOUT)
    assert len(delays) == 100
    assert 0 <= min(delays) < max(delays) < REKEY_JITTER


def test_an_answered_initiation_is_not_repeated():
    these = timers()
    these.handshake_initiated(0.0)
    these.handshake_complete()
    assert due_at(these) == []


def test_a_new_handshake_is_wanted_15_seconds_after_the_first_packet_that_stays_unanswered():
    these = timers(jitter=0.5)
    these.data_sent(0.0)
    these.data_sent(14.0)
    assert due_at(these) == [(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + REKEY_JITTER / 2, NEW)]


@pytest.mark.parametrize("moment", ["any_received", "data_received"])
def test_whatever_comes_back_answers_a_packet(moment):
    these = timers()
    these.data_sent(0.0)
    getattr(these, moment)(14.9)
    assert NEW not in [timer for _, timer in due_at(these)]
    these.data_sent(30.0)
    assert (45.0, NEW) in due_at(these)


def test_a_keepalive_is_due_ten_seconds_after_the_first_packet_that_we_left_unanswered():
    these = timers()
    these.data_received(0.0)
    assert due_at(these) == [(KEEPALIVE_TIMEOUT, KEEPALIVE)]


def test_packets_in_the_meantime_make_one_more_keepalive_and_not_one_each():
    these = timers()
    for second in range(8):
        these.data_received(float(second))
    assert due_at(these) == [(KEEPALIVE_TIMEOUT, KEEPALIVE), (2 * KEEPALIVE_TIMEOUT, KEEPALIVE)]


@pytest.mark.parametrize("moment", ["any_sent", "data_sent", "handshake_initiated"])
def test_whatever_we_send_is_a_sign_of_life(moment):
    these = timers()
    these.data_received(0.0)
    getattr(these, moment)(9.9)
    assert KEEPALIVE not in [timer for _, timer in due_at(these)]


def test_a_keepalive_that_came_wants_none_back():
    these = timers()
    these.any_received(0.0)
    assert due_at(these) == []


@pytest.mark.parametrize("moment", ["any_sent", "data_sent", "handshake_initiated", "any_received", "data_received"])
def test_the_persistent_keepalive_counts_from_whatever_went_either_way(moment):
    these = timers(persistent=3.0)
    getattr(these, moment)(10.0)
    fired = [now for now, timer in due_at(these, end=16.5) if timer is PERSISTENT]
    assert fired == [13.0, 16.0]


def test_stopped_timers_are_quiet_but_for_the_persistent_keepalive():
    these = timers(persistent=25.0)
    these.handshake_initiated(0.0)
    these.data_sent(0.0)
    these.data_received(0.0)
    these.data_received(0.0)
    these.stop()
    assert due_at(these, end=60.0) == [(25.0, PERSISTENT), (50.0, PERSISTENT)]
    these.data_received(60.0)
    assert [timer for _, timer in due_at(these, end=84.0)] == [KEEPALIVE]


def test_the_first_deadline_is_told_with_its_reason():
    these = timers(persistent=7.0)
    these.data_received(0.0)
    these.data_sent(1.0)
    these.handshake_initiated(2.0)
    assert these.poll_timeout() == (2 + REKEY_TIMEOUT, "the initiation stayed unanswered")
    these.handshake_complete()
    assert these.poll_timeout() == (9.0, "persistent keepalive")
    assert these.handle_timeout(9.0) == [PERSISTENT]
    assert these.poll_timeout() == (16.0, "what we sent stayed unanswered")


def test_after_a_long_sleep_everything_is_due_once():
    these = timers(persistent=25.0)
    these.handshake_initiated(0.0)
    these.data_sent(0.0)
    these.data_received(0.0)
    assert set(these.handle_timeout(600.0)) == {RETRANSMIT, KEEPALIVE, PERSISTENT}
    assert these.handle_timeout(600.0) == []
    assert these.poll_timeout() == (625.0, "persistent keepalive")
