from dataclasses import fields
from typing import get_args

from tunneld.proto.errors import Reason
from tunneld.proto.events import Event, Ledger, Refused


def told(ledger):
    found = []
    while (event := ledger.poll_event()) is not None:
        found.append(event)
    return found


def test_what_was_refused_is_counted_and_told_once():
    ledger = Ledger()
    assert told(ledger) == []
    ledger.refuse(Reason.UNKNOWN_PEER, "there", detail=b"key")
    assert told(ledger) == [Refused(Reason.UNKNOWN_PEER, "", "there", b"key", 1)]
    assert told(ledger) == []
    assert ledger.drops == {Reason.UNKNOWN_PEER: 1}


def test_a_flood_is_one_event_with_the_last_case_and_its_count():
    ledger = Ledger()
    for number in range(100_000):
        ledger.refuse(Reason.UNKNOWN_PEER, number, detail=b"%d" % number)
    ledger.refuse(Reason.UNKNOWN_SESSION, "there", count=64)
    assert sorted(told(ledger), key=lambda event: event.count) == [
        Refused(Reason.UNKNOWN_SESSION, "", "there", None, 64),
        Refused(Reason.UNKNOWN_PEER, "", 99_999, b"99999", 100_000),
    ]
    ledger.refuse(Reason.UNKNOWN_PEER, "there")
    assert told(ledger) == [Refused(Reason.UNKNOWN_PEER, "", "there", None, 1)]
    assert ledger.drops == {Reason.UNKNOWN_PEER: 100_001, Reason.UNKNOWN_SESSION: 64}


def test_peers_are_told_apart_and_counted_together():
    ledger = Ledger()
    ledger.refuse(Reason.OLD_TIMESTAMP, "there", peer="a", detail=1.0)
    ledger.refuse(Reason.OLD_TIMESTAMP, "here", peer="b", detail=2.0)
    assert {event.peer: event.detail for event in told(ledger)} == {"a": 1.0, "b": 2.0}
    assert ledger.drops == {Reason.OLD_TIMESTAMP: 2}


def test_every_event_but_a_refusal_names_its_peer_first():
    assert {fields(event)[0].name for event in get_args(Event) if event is not Refused} == {"peer"}
