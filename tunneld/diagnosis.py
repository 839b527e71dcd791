"""What happens to the peers of a sealed tunnel, told to the operator: their states, and why something is refused.

Strangers get silence; the operator gets the cause, with what to do about it: once a minute at most for each cause and
peer in the log, and at any time in `tunneld show`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

from tunneld.edge import address as addresses
from tunneld.keys import PublicKey
from tunneld.links.state import QUIET, PeerState, State
from tunneld.log import Limiter
from tunneld.proto import events
from tunneld.proto.errors import Reason
from tunneld.text import duration, quoted

log = logging.getLogger("tunneld.peer")

# What an initiator can know when nothing comes back, and when the answer does not open.
NO_ANSWER = "host down, filtered, their key for us wrong, or mode/cipher/protocol differ"
OTHER_PSK = "handshake answered but preshared_key differs; set the same at both ends"

# Refusals that say something to an operator. The others are counted only: noise, and what a restart or a lossy
# network brings about by itself.
SENTENCES = {
    Reason.BAD_MAC1: "handshake from {who} was made for another public key than ours ({ours}), or is noise; "
    "compare public_key there",
    Reason.UNKNOWN_PEER: "unknown peer public key {key} from {who}; write it as public_key of a [[peer]] here, or "
    "remove us there",
    Reason.UNUSABLE_KEY: "handshake from {who} with a key that makes every secret zero: somebody attacks; keep them "
    "out by the firewall",
    Reason.BAD_INITIATION: "handshake from {who} is for our key, but made by another protocol, or noise; set "
    "transport alike if it is a peer",
    Reason.BAD_RESPONSE: f"peer {{peer}}: {OTHER_PSK}",
    Reason.OLD_TIMESTAMP: "peer {peer}: timestamp {age} than the last accepted: its clock went back, or a "
    "replay; once it is set: tunneld peer reset-timestamp {tunnel} {peer}",
    Reason.OTHER_SETTINGS: "peer at {who} speaks {spoken}, here it is {settings}; set protocol, mode and cipher "
    "alike",
    Reason.WRONG_SOURCE: "peer {peer}: dropped inner source {source} (not in allowed_ips), {count} so far; add it "
    "here if it belongs there",
    Reason.NO_ROUTE: "no peer has {destination} in allowed_ips, {count} packets dropped so far; add it to a peer",
    Reason.NO_COOKIE: "under load: handshakes come faster than they can be answered, the last from {who}; who sends "
    "them has to prove their address now, and peers still get in",
    Reason.UNKNOWN_CONTROL: "peer {peer}: sends control messages of a newer version; update tunneld here",
    Reason.MALFORMED: "peer {peer}: sends what breaks the format, {count} so far; report it to those who made it",
    Reason.STORM: "peer {peer}: more than 1,000 broadcast frames a second, {count} dropped so far; look for a loop",
    Reason.MAC_LIMIT: "peer {peer}: more hosts than it may have behind it, {count} frames dropped so far; look who "
    "makes up addresses",
    Reason.MAC_TAKEN: "peer {peer}: sends as a host that is behind another peer, {count} frames dropped so far; look "
    "for two hosts with one address",
}


# Causes that are no refusal of ours. docs/OPERATING.md explains each.
Cause = Literal[
    "no-answer",
    "no-connection",
    "unreachable",
    "unresolved",
    "unconfirmed",
    "nothing-returns",
    "mtu-differs",
    "mode-differs",
    "allowed-ips-differs",
]
DIFFERS: dict[str, Cause] = {"mtu": "mtu-differs", "mode": "mode-differs", "allowed_ips": "allowed-ips-differs"}

# What is over when there is a session with the peer.
SOLVED_BY_SESSION = (
    "no-answer",
    "no-connection",
    "unreachable",
    "unresolved",
    "unconfirmed",
    Reason.BAD_RESPONSE.value,
    Reason.OLD_TIMESTAMP.value,
)
# What says more than that there is no answer, until the next initiation but one.
SAYS_LITTLE = ("no-answer", "no-connection")
SAYS_MORE = ("unreachable", Reason.BAD_RESPONSE.value)
HOLDS = 7.0


@dataclass(slots=True)
class Case:
    """One cause and what it did: `peer` is "" for strangers; `last` is in CLOCK_BOOTTIME seconds.

    `solved` says that it was seen to be gone since.
    """

    cause: str
    peer: str
    sentence: str
    count: int
    last: float
    told: float
    solved: bool = False


class Diagnosis:
    """Takes the events of `tunnel`, in their order. `settings` names what is configured here."""

    def __init__(
        self,
        tunnel: str,
        states: Mapping[str, PeerState],
        *,
        ours: PublicKey,
        settings: str,
        clock: Callable[[], float],
    ) -> None:
        self._tunnel = tunnel
        self._states = states
        self._ours = ours
        self._settings = settings
        self._clock = clock
        self._cases: dict[tuple[str, str], Case] = {}
        # Of the lines for all causes and peers together.
        self._limiter = Limiter()

    def cases(self) -> Sequence[Case]:
        """Every cause that was not seen to be gone, the latest first."""
        return sorted((case for case in self._cases.values() if not case.solved), key=lambda case: -case.last)

    def take(self, event: events.Event) -> None:
        """Tell what `event` means."""
        match event:
            case events.Refused():
                self._refused(event)
            case events.Initiated(attempt=1):
                if self._states[event.peer].state is not State.UP:
                    text = f"handshake initiation sent to {_who(event.link)}"
                    self._states[event.peer].become(State.CONNECTING, text)
            case events.Initiated():
                self._repeated(event)
            case events.GaveUp():
                text = (
                    f"no answer to {event.attempts} handshake initiations; the next packet or keepalive tries again"
                )
                self._states[event.peer].become(State.DOWN, text)
            case events.Unconfirmed():
                self._tell("unconfirmed", event.peer, _unconfirmed(event), 1)
            case events.Unanswered(answered=True):
                text = (
                    f"peer {quoted(event.peer)}: handshakes complete but nothing returns: "
                    "check routes and firewall behind it"
                )
                self._tell("nothing-returns", event.peer, text, 1)
            case events.Unanswered():
                text = "nothing came back for 15 s; a new handshake begins"
                self._states[event.peer].become(State.CONNECTING, text)
            case _:
                self._tell_state(event)

    def trouble(self, peer: str, cause: Cause, text: str) -> None:
        """The peer cannot be reached, because of `text`; unless more is known than that."""
        now = self._clock()
        if cause in SAYS_LITTLE and any(now - case.last < HOLDS for case in self._of(peer, SAYS_MORE)):
            return
        self._note(cause, peer, f"peer {quoted(peer)}: {text}", 1)
        self._states[peer].become(State.CONNECTING, text, cause=cause)

    def _repeated(self, event: events.Initiated) -> None:
        # While a session is renewed the old keys still hold: one lost message is no reason for alarm.
        if self._states[event.peer].state is State.UP and event.attempt == 2:
            return
        text = f"no answer from {_who(event.link)} ({event.attempt} tries): {NO_ANSWER}"
        self.trouble(event.peer, "no-answer", text)

    def _tell_state(self, event: events.Event) -> None:
        match event:
            case events.Established() | events.Moved():
                link = event.link
                self._states[event.peer].become(State.UP, f"session with {_who(link)}", link=str(link))
                self._solve(event.peer, SOLVED_BY_SESSION)
            case events.Restarted():
                if self._limiter.admit("lines", self._clock()) is not None:
                    self._states[event.peer].tell("was restarted")
            case events.Compared():
                self._solve(event.peer, DIFFERS.values())
                for difference in event.differences:
                    text = f"peer {quoted(event.peer)}: {difference.sentence}"
                    self._tell(DIFFERS[difference.field], event.peer, text, 1)
            case events.SaidGoodbye():
                self._states[event.peer].become(State.DOWN, "peer shut down")
            case events.Forgotten():
                text = "idle, so its keys are dropped; the next packet begins a handshake"
                self._states[event.peer].become(State.LISTENING, text)

    def _refused(self, refused: events.Refused) -> None:
        sentence = SENTENCES.get(refused.reason)
        if sentence is None or (refused.reason is Reason.NO_ROUTE and _is_chatter(refused.detail)):
            return
        cause = refused.reason.value
        earlier = self._cases.get((cause, refused.peer))
        count = refused.count + (earlier.count if earlier else 0)
        text = sentence.format(
            who=_who(refused.link),
            ours=self._ours,
            peer=quoted(refused.peer),
            settings=self._settings,
            tunnel=self._tunnel,
            count=count,
            **_details(refused),
        )
        if refused.reason is Reason.BAD_RESPONSE and self._states[refused.peer].state is not State.UP:
            self._note(cause, refused.peer, text, refused.count)
            self._states[refused.peer].become(State.CONNECTING, OTHER_PSK, cause=cause)
        else:
            self._tell(cause, refused.peer, text, refused.count)

    def _tell(self, cause: str, peer: str, sentence: str, count: int) -> None:
        """Take note of a cause, and log it now and then."""
        case = self._note(cause, peer, sentence, count)
        if case.last - case.told >= QUIET and self._limiter.admit("lines", case.last) is not None:
            case.told = case.last
            log.warning("%s", sentence)

    def _note(self, cause: str, peer: str, sentence: str, count: int) -> Case:
        now = self._clock()
        case = self._cases.setdefault((cause, peer), Case(cause, peer, "", 0, now, now - QUIET))
        case.sentence, case.count, case.last, case.solved = sentence, case.count + count, now, False
        return case

    def _of(self, peer: str, causes: Iterable[str]) -> Iterator[Case]:
        return (self._cases[cause, peer] for cause in causes if (cause, peer) in self._cases)

    def _solve(self, peer: str, causes: Iterable[str]) -> None:
        for case in self._of(peer, causes):
            case.solved = True


def _unconfirmed(event: events.Unconfirmed) -> str:
    return (
        f"peer {quoted(event.peer)}: we answer its handshakes, but it never confirms: "
        "preshared_key differs, or our answers do not reach it"
    )


def _who(link: Any) -> str:
    return "?" if link is None else addresses.text(link.remote)


def _details(refused: events.Refused) -> dict[str, str]:
    detail = refused.detail
    match refused.reason:
        case Reason.UNKNOWN_PEER if isinstance(detail, bytes):
            return {"key": str(PublicKey(detail))}
        case Reason.OLD_TIMESTAMP if isinstance(detail, float):
            return {"age": f"{duration(detail)} older" if detail >= 1 else "no newer"}
        case Reason.OTHER_SETTINGS:
            return {"spoken": str(detail)}
        case Reason.WRONG_SOURCE | Reason.NO_ROUTE if isinstance(detail, bytes):
            source, destination = _addresses(detail)
            return {"source": source, "destination": destination}
    return {}


def _addresses(header: bytes) -> tuple[str, str]:
    """Source and destination of an IP packet, by its first 40 bytes."""
    version = header[0] >> 4 if header else 0
    if version == 4 and len(header) >= 20:
        return str(ip_address(header[12:16])), str(ip_address(header[16:20]))
    if version == 6 and len(header) >= 40:
        return str(ip_address(header[8:24])), str(ip_address(header[24:40]))
    return "that is no IP address", "what is no IP packet"


def _is_chatter(header: object) -> bool:
    """Whether a packet goes to a group or to the neighbours only: every kernel sends such, and nobody misses them."""
    _, destination = _addresses(header) if isinstance(header, bytes) else ("", "")
    try:
        address = ip_address(destination)
    except ValueError:
        return True
    return address.is_multicast or address.is_link_local or str(address) == "255.255.255.255"
