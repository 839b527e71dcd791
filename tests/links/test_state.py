from __future__ import annotations

import logging

import pytest

from tunneld.links.state import PeerState, State
from tunneld.log import PER_SECOND


@pytest.fixture
def peer():
    clock = iter(range(100, 200)).__next__
    changes = []
    peer = PeerState("berlin", clock, lambda: changes.append(peer.state))
    return peer, changes


def test_it_begins_down(peer):
    state, changes = peer
    assert (state.state, state.reason, state.since, state.link) == (State.DOWN, "starting", 100, None)
    assert changes == []


def test_each_change_is_one_line_and_one_call(peer, caplog):
    caplog.set_level(logging.INFO)
    state, changes = peer
    state.become(State.UP, "connected", link="tcp a → b")
    assert (state.state, state.reason, state.since, state.link) == (State.UP, "connected", 101, "tcp a → b")
    assert changes == [State.UP]
    assert caplog.messages == ["peer berlin: up: connected"]


def test_no_change_is_silent(peer, caplog):
    caplog.set_level(logging.INFO)
    state, changes = peer
    for _ in range(3):
        state.become(State.UP, "connected", link="tcp a → b")
    assert len(changes) == len(caplog.messages) == 1


def test_a_new_reason_is_told_but_does_not_count_as_a_new_state(peer):
    state, changes = peer
    state.become(State.CONNECTING, "refused")
    since = state.since
    state.become(State.CONNECTING, "timed out")
    assert state.since == since
    assert state.reason == "timed out"
    assert len(changes) == 2


def test_a_flood_of_changes_is_held_back_and_its_end_is_told(caplog):
    caplog.set_level(logging.INFO)
    now, changes = 100.0, []
    state = PeerState("berlin", lambda: now, lambda: changes.append(state.reason))
    for number in range(50):
        state.become(State.UP, f"connected {number}")
        state.tell("was restarted")
    assert len(caplog.messages) == PER_SECOND
    assert len(changes) == PER_SECOND // 2
    assert state.reason == "connected 49"
    state.settle()
    assert len(caplog.messages) == PER_SECOND
    now = 102.0
    state.settle()
    assert caplog.messages[PER_SECOND:] == ["peer berlin: and 90 more", "peer berlin: up: connected 49"]
    assert changes[PER_SECOND // 2 :] == ["connected 49"]
    state.settle()
    assert len(changes) == PER_SECOND // 2 + 1


def test_a_trouble_is_a_warning_and_is_not_told_again_for_a_minute_while_only_its_numbers_change(caplog):
    caplog.set_level(logging.INFO)
    now, changes = 100.0, []
    state = PeerState("berlin", lambda: now, lambda: changes.append(state.reason))
    for number in range(2, 14):
        state.become(State.CONNECTING, f"no answer ({number} tries)", cause="no-answer")
        now += 5.0
    assert state.reason == "no answer (13 tries)"
    state.become(State.CONNECTING, "no answer (14 tries)", cause="no-answer")
    state.become(State.CONNECTING, "port unreachable", cause="unreachable")
    state.become(State.CONNECTING, "no answer (15 tries)", cause="no-answer")
    state.become(State.DOWN, "no answer to 15")
    state.become(State.CONNECTING, "no answer (1 tries)", cause="no-answer")
    assert caplog.messages == [
        "peer berlin: connecting: no answer (2 tries)",
        "peer berlin: connecting: no answer (14 tries)",
        "peer berlin: connecting: port unreachable",
        "peer berlin: down: no answer to 15",
        "peer berlin: connecting: no answer (1 tries)",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO", "WARNING"]
    assert len(changes) == 5


def test_the_link_is_forgotten_with_the_state(peer):
    state, _ = peer
    state.become(State.UP, "connected", link="tcp a → b")
    state.become(State.CONNECTING, "closed")
    assert state.link is None
