"""WireGuard's slots. A session of these tests is called by its number, its local index."""

import random

import pytest

from tunneld.proto.const import FORGET_AFTER_TIME, REJECT_AFTER_TIME
from tunneld.proto.keyslots import KeySlots
from tunneld.proto.profile import WIREGUARD
from tunneld.proto.replay import ReplayWindow
from tunneld.proto.session import Session


def session(number, initiator=True, born=0.0):
    return Session(
        WIREGUARD, sending_key=bytes(32), receiving_key=bytes(32), local_index=number, remote_index=number,
        initiator=initiator, born=born, received=ReplayWindow(),
    )  # fmt: skip


def numbers(sessions):
    return [session.local_index for session in sessions]


def slots(keys):
    """previous, current, next."""
    return [session and session.local_index for session in (keys.previous, keys.current, keys.next)]


@pytest.fixture
def keys():
    return KeySlots()


def test_an_initiators_session_is_current_at_once_and_the_one_before_stays(keys):
    assert keys.install(session(1)) == []
    assert slots(keys) == [None, 1, None]
    keys.heard = True
    assert keys.install(session(2)) == []
    assert slots(keys) == [1, 2, None]
    keys.heard = True
    assert numbers(keys.install(session(3))) == [1]
    assert slots(keys) == [2, 3, None]


def test_a_session_in_which_the_peer_was_never_heard_takes_no_place_of_one_in_which_it_was(keys):
    keys.install(session(1))
    assert not keys.crossed
    assert keys.install(session(2)) == []
    assert keys.crossed
    assert numbers(keys.install(session(3))) == [2]
    assert slots(keys) == [1, 3, None]
    keys.install(session(4, initiator=False))
    assert numbers(keys.install(session(5))) == [3, 1]
    assert slots(keys) == [4, 5, None]
    keys.heard = True
    assert not keys.crossed


def test_a_responder_does_not_seal_with_the_new_keys_until_it_opened_a_message(keys):
    keys.install(session(1))
    fresh = session(2, initiator=False)
    assert keys.install(fresh) == []
    assert slots(keys) == [None, 1, 2]
    assert keys.sealing(0.0).local_index == 1
    assert keys.confirm() == []
    assert slots(keys) == [1, 2, None]
    assert keys.sealing(0.0) is fresh


def test_a_responders_first_session_seals_nothing_until_it_is_confirmed(keys):
    first = session(1, initiator=False)
    keys.install(first)
    assert keys.sealing(0.0) is None
    keys.confirm()
    assert keys.sealing(0.0) is first


def test_repeated_initiations_never_displace_the_current_session(keys):
    keys.install(session(1))
    gone = [numbers(keys.install(session(number, initiator=False))) for number in range(2, 6)]
    assert gone == [[], [2], [3], [4]]
    assert slots(keys) == [None, 1, 5]
    assert keys.sealing(0.0).local_index == 1


def test_the_previous_session_stays_until_the_responders_new_one_is_confirmed(keys):
    keys.install(session(1))
    keys.install(session(2))
    assert keys.install(session(3, initiator=False)) == []
    assert slots(keys) == [1, 2, 3]
    assert numbers(keys.confirm()) == [1]
    assert slots(keys) == [2, 3, None]


def test_when_both_begin_at_once_the_peers_session_still_opens(keys):
    keys.install(session(1))
    keys.install(session(2, initiator=False))
    assert numbers(keys.install(session(3))) == [1]
    assert slots(keys) == [2, 3, None]


def test_nothing_is_sealed_with_old_keys(keys):
    keys.install(session(1, born=100.0))
    assert keys.sealing(100.0 + REJECT_AFTER_TIME - 0.001) is not None
    assert keys.sealing(100.0 + REJECT_AFTER_TIME) is None
    assert slots(keys) == [None, 1, None], "it is dropped later"


def test_all_keys_go_540_seconds_after_the_last_handshake(keys):
    assert keys.poll_timeout() is None
    assert keys.handle_timeout(10_000.0) == []
    keys.install(session(1, born=0.0))
    keys.install(session(2, born=100.0))
    assert keys.poll_timeout() == (100.0 + FORGET_AFTER_TIME, "the keys are old")
    assert keys.handle_timeout(639.9) == []
    assert sorted(numbers(keys.handle_timeout(640.0))) == [1, 2]
    assert slots(keys) == [None, None, None]


def test_forgetting_hands_back_all_sessions(keys):
    keys.install(session(1))
    keys.install(session(2, initiator=False))
    assert sorted(numbers(keys.forget())) == [1, 2]
    assert keys.forget() == []
    assert keys.sealing(0.0) is None


def test_no_session_is_lost_or_handed_back_twice(keys):
    choose = random.Random(6)
    held = {}
    for number in range(2000):
        if keys.next is not None and choose.random() < 0.4:
            gone = keys.confirm()
        else:
            held[number] = session(number, initiator=choose.random() < 0.5)
            gone = keys.install(held[number])
        for each in gone:
            del held[each.local_index]
        assert sorted(held) == sorted(numbers(keys.sessions()))


def test_what_the_peer_has_no_more_is_dropped_and_what_is_newer_is_kept(keys):
    keys.install(session(1))
    keys.install(session(2))
    keys.install(session(3, initiator=False))
    assert numbers(keys.forget_confirmed()) == [2, 1]
    assert slots(keys) == [None, None, 3]
    keys.confirm()
    keys.install(session(4))
    assert numbers(keys.forget_confirmed()) == [4, 3]
    assert keys.forget_confirmed() == []
