from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import get_args

import pytest

from tunneld.diagnosis import DIFFERS, SENTENCES, Cause, Diagnosis
from tunneld.keys import PrivateKey, PublicKey
from tunneld.links.state import QUIET, PeerState, State
from tunneld.log import PER_SECOND
from tunneld.proto import events
from tunneld.proto.controlchannel import Difference
from tunneld.proto.errors import Reason

OPERATING = (Path(__file__).resolve().parent.parent / "docs/OPERATING.md").read_text()
OURS = PrivateKey(bytearray(range(32))).public_key()
THEIRS = PublicKey(bytes(range(100, 132)))
SETTINGS = "tunneld tun aes-256-gcm"


@dataclass
class Link:
    remote: tuple[str | int, ...] = ("203.0.113.5", 4000)

    def __str__(self) -> str:
        return "udp 192.0.2.1:1 → 203.0.113.5:4000"


class Operator:
    """Who reads the log and looks at `show`, with a clock to turn."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *names: str) -> None:
        caplog.set_level(logging.INFO)
        self.now = 1000.0
        self._caplog = caplog
        self.states = {name: PeerState(name, lambda: self.now, lambda: None) for name in names}
        self.diagnosis = Diagnosis("home", self.states, ours=OURS, settings=SETTINGS, clock=lambda: self.now)

    def take(self, *told: events.Event, every: float = 0.0) -> list[str]:
        """The lines in the log that these events make, with `every` seconds between."""
        self._caplog.clear()
        for event in told:
            self.diagnosis.take(event)
            self.now += every
        return self._caplog.messages

    @property
    def shown(self) -> list[str]:
        return [case.cause for case in self.diagnosis.cases()]


@pytest.fixture
def operator(caplog):
    return Operator(caplog, "office", "phone")


def refused(reason: Reason, peer: str = "", detail: object = None, count: int = 1) -> events.Refused:
    return events.Refused(reason, peer, Link(), detail, count)


def header(source: str, destination: str) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    return (b"\x45" + bytes(11) + ends).ljust(40, b"\0") if len(ends) == 8 else b"\x60" + bytes(7) + ends


DAYS = 3 * 86_400 + 4 * 3_600 + 59.0  # that a clock lost
LINES = [
    (
        refused(Reason.BAD_MAC1),
        f"handshake from 203.0.113.5:4000 was made for another public key than ours ({OURS}), or is noise; "
        "compare public_key there",
    ),
    (
        refused(Reason.UNKNOWN_PEER, detail=THEIRS.raw),
        f"unknown peer public key {THEIRS} from 203.0.113.5:4000; write it as public_key of a [[peer]] here, or "
        "remove us there",
    ),
    (
        refused(Reason.OTHER_SETTINGS, detail="tunneld tap chacha20-poly1305"),
        "peer at 203.0.113.5:4000 speaks tunneld tap chacha20-poly1305, here it is tunneld tun aes-256-gcm; "
        "set protocol, mode and cipher alike",
    ),
    (
        refused(Reason.OLD_TIMESTAMP, "phone", DAYS),
        'peer "phone": timestamp 3 d 4 h older than the last accepted: its clock went back, or a replay; '
        'once it is set: tunneld peer reset-timestamp home "phone"',
    ),
    (
        refused(Reason.OLD_TIMESTAMP, "phone", 0.0),
        'peer "phone": timestamp no newer than the last accepted: its clock went back, or a replay; '
        'once it is set: tunneld peer reset-timestamp home "phone"',
    ),
    (
        events.Unconfirmed("office", Link(), 2),
        'peer "office": we answer its handshakes, but it never confirms: preshared_key differs, or our '
        "answers do not reach it",
    ),
    (
        events.Unanswered("office", True),
        'peer "office": handshakes complete but nothing returns: check routes and firewall behind it',
    ),
    (
        refused(Reason.WRONG_SOURCE, "phone", header("10.0.0.9", "10.9.0.1"), 37),
        'peer "phone": dropped inner source 10.0.0.9 (not in allowed_ips), 37 so far; '
        "add it here if it belongs there",
    ),
    (
        refused(Reason.WRONG_SOURCE, "phone", header("fd00::9", "fd09::1"), 2),
        'peer "phone": dropped inner source fd00::9 (not in allowed_ips), 2 so far; add it here if it belongs there',
    ),
    (
        refused(Reason.NO_ROUTE, detail=header("10.9.0.1", "10.7.0.1"), count=3),
        "no peer has 10.7.0.1 in allowed_ips, 3 packets dropped so far; add it to a peer",
    ),
    (
        events.Compared("office", (Difference("mtu", "mtu is 1400 here and 1300 at the peer; set both to 1300"),)),
        'peer "office": mtu is 1400 here and 1300 at the peer; set both to 1300',
    ),
]


@pytest.mark.parametrize(("event", "line"), LINES)
def test_a_cause_is_a_line_with_what_to_do_and_is_shown(operator, event, line):
    assert operator.take(event) == [line]
    (case,) = operator.diagnosis.cases()
    assert (case.sentence, case.last) == (line, operator.now)
    assert case.peer == event.peer
    assert case.count == getattr(event, "count", 1)


@pytest.mark.parametrize("reason", SENTENCES)
def test_every_sentence_is_complete(operator, reason):
    details = {
        Reason.UNKNOWN_PEER: THEIRS.raw,
        Reason.OLD_TIMESTAMP: 1.5,
        Reason.OTHER_SETTINGS: "wireguard",
        Reason.WRONG_SOURCE: b"",
        Reason.NO_ROUTE: header("10.9.0.1", "10.7.0.1"),
    }
    (line,) = operator.take(refused(reason, "office", details.get(reason)))
    assert line.isprintable()
    assert "{" not in line.replace("[[peer]]", "")
    assert operator.shown == [reason.value]


def test_a_cause_is_told_once_a_minute_for_each_peer_and_counted_meanwhile(operator):
    twice = [refused(Reason.OLD_TIMESTAMP, name, DAYS) for name in ("office", "phone", "office", "phone")]
    assert len(operator.take(*twice)) == 2
    assert len(operator.take(*twice * 100, every=(QUIET - 1) / 400)) == 0
    operator.now += 1.0
    assert len(operator.take(*twice)) == 2
    assert {case.peer: case.count for case in operator.diagnosis.cases()} == {"office": 204, "phone": 204}


def test_all_causes_of_all_peers_together_make_ten_lines_a_second(caplog):
    names = [f"peer{number}" for number in range(200)]
    operator = Operator(caplog, *names)
    storm = [
        event
        for name in names
        for event in (refused(Reason.OLD_TIMESTAMP, name, 1.0), events.Restarted(name), refused(Reason.BAD_MAC1))
    ]
    assert len(operator.take(*storm)) == PER_SECOND
    operator.now += 1.0
    assert len(operator.take(*storm)) == PER_SECOND


def test_no_answer_is_told_after_the_second_try_and_shown_with_the_last(operator):
    tries = [events.Initiated("office", Link(), number) for number in range(1, 12)]
    assert operator.take(*tries, every=5.0) == [
        "peer office: connecting: handshake initiation sent to 203.0.113.5:4000",
        "peer office: connecting: no answer from 203.0.113.5:4000 (2 tries): host down, filtered, their key for us "
        "wrong, or mode/cipher/protocol differ",
    ]
    assert "(11 tries)" in operator.states["office"].reason
    (case,) = operator.diagnosis.cases()
    assert (case.cause, case.count) == ("no-answer", 10)
    assert "(11 tries)" in case.sentence
    assert operator.take(events.GaveUp("office", 19)) == [
        "peer office: down: no answer to 19 handshake initiations; the next packet or keepalive tries again"
    ]


def test_a_host_that_refuses_or_answers_otherwise_is_not_called_silent(operator):
    for number in range(1, 6):
        operator.take(events.Initiated("office", Link(), number))
        operator.diagnosis.trouble("office", "unreachable", "port unreachable: nothing listens there")
        operator.take(events.Initiated("phone", Link(), number), refused(Reason.BAD_RESPONSE, "phone"))
        operator.now += 5.3
    assert sorted(operator.shown) == ["bad-response", "unreachable"]
    assert operator.states["office"].reason == "port unreachable: nothing listens there"
    assert (
        operator.states["phone"].reason == "handshake answered but preshared_key differs; set the same at both ends"
    )


def test_another_preshared_key_is_one_line(operator):
    assert operator.take(events.Initiated("phone", Link(), 1), *[refused(Reason.BAD_RESPONSE, "phone")] * 5) == [
        "peer phone: connecting: handshake initiation sent to 203.0.113.5:4000",
        "peer phone: connecting: handshake answered but preshared_key differs; set the same at both ends",
    ]


def test_a_forged_answer_does_not_end_what_is_up(operator):
    operator.take(events.Established("phone", Link(), initiator=True, first=True))
    operator.take(refused(Reason.BAD_RESPONSE, "phone"))
    assert operator.states["phone"].state is State.UP


def test_one_lost_initiation_of_a_session_that_is_renewed_is_no_alarm(operator):
    operator.take(events.Established("office", Link(), initiator=True, first=True))
    assert operator.take(events.Initiated("office", Link(), 1), events.Initiated("office", Link(), 2)) == []
    assert operator.states["office"].state is State.UP
    operator.take(events.Initiated("office", Link(), 3))
    assert operator.states["office"].state is State.CONNECTING


def test_a_session_solves_what_kept_it_away_and_a_relapse_is_told_after_a_minute(operator):
    wrong = [
        events.Initiated("office", Link(), 2),
        events.Unconfirmed("office", Link(), 2),
        refused(Reason.OLD_TIMESTAMP, "office", 5.0),
        refused(Reason.BAD_MAC1),
    ]
    assert len(operator.take(*wrong)) == 4
    up = events.Established("office", Link(), initiator=True, first=True)
    assert operator.take(up) == ["peer office: up: session with 203.0.113.5:4000"]
    assert operator.shown == ["not-for-our-key"]
    assert operator.states["office"].link == str(Link())
    assert operator.take(wrong[1]) == []
    assert "unconfirmed" in operator.shown
    operator.now += QUIET
    assert len(operator.take(wrong[1])) == 1


def test_differences_that_are_gone_are_not_shown(operator):
    both = (Difference("mtu", "a"), Difference("allowed_ips", "b"), Difference("mode", "c"))
    assert operator.take(events.Compared("office", both)) == ['peer "office": ' + letter for letter in "abc"]
    operator.take(events.Compared("office", both[1:2]))
    assert operator.shown == ["allowed-ips-differs"]
    operator.take(events.Compared("office", ()))
    assert operator.shown == []


def test_what_else_happens_to_a_peer_is_a_line(operator):
    assert operator.take(
        events.Established("office", Link(), initiator=False, first=True),
        events.Moved("office", Link(("2001:db8::1", 5, 0, 0))),
        events.Restarted("office"),
        events.Unanswered("office", False),
        events.Forgotten("office"),
        events.SaidGoodbye("office"),
        events.Superseded("office", Link()),
    ) == [
        "peer office: up: session with 203.0.113.5:4000",
        "peer office: up: session with [2001:db8::1]:5",
        "peer office: was restarted",
        "peer office: connecting: nothing came back for 15 s; a new handshake begins",
        "peer office: listening: idle, so its keys are dropped; the next packet begins a handshake",
        "peer office: down: peer shut down",
    ]


@pytest.mark.parametrize("destination", ["224.0.0.22", "255.255.255.255", "169.254.1.1", "ff02::2", "fe80::1", ""])
def test_what_every_kernel_says_to_its_neighbours_is_nothing_to_tell(operator, destination):
    packet = header("fe80::2" if ":" in destination else "10.9.0.1", destination) if destination else b""
    assert operator.take(refused(Reason.NO_ROUTE, detail=packet)) == []
    assert operator.shown == []


def test_what_is_no_packet_has_no_source(operator):
    (line,) = operator.take(refused(Reason.WRONG_SOURCE, "phone", b"\x45short"))
    assert "inner source that is no IP address" in line


@pytest.mark.parametrize("reason", [Reason.FORGED, Reason.UNKNOWN_SESSION, Reason.UNEXPECTED_ANSWER])
def test_noise_is_counted_elsewhere_and_not_told(operator, reason):
    assert operator.take(refused(reason)) == []
    assert operator.shown == []


def test_the_name_of_a_peer_is_escaped(caplog):
    name = "a\n\x1b[2J{count}"
    operator = Operator(caplog, name)
    (line,) = operator.take(refused(Reason.MALFORMED, name))
    assert line.isprintable()
    assert "{count}" in line


def test_every_cause_is_explained_in_the_manual_and_back():
    section = OPERATING.partition("\n## Causes")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", section, flags=re.M)
    assert sorted(explained) == sorted([*get_args(Cause), *(reason.value for reason in SENTENCES)])


def test_every_field_that_is_compared_is_a_cause():
    assert set(DIFFERS.values()) <= set(get_args(Cause))
