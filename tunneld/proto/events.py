"""What happens to a peer, for those above who tell and decide: states, log, `show`, endpoints.

`link` is whatever the caller gave as the way to the peer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tunneld.proto.controlchannel import Difference
from tunneld.proto.errors import Reason

# What a refusal tells beside its reason; see Refused.
Detail = bytes | float | str | None


@dataclass(frozen=True, slots=True)
class Initiated:
    """An initiation was sent, the `attempt`th in a row that is without an answer so far; the first is 1."""

    peer: str
    link: object
    attempt: int


@dataclass(frozen=True, slots=True)
class GaveUp:
    """No answer for 90 s: what waited for keys is dropped, and the next try waits for traffic or keepalive."""

    peer: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Established:
    """Both ends have new keys. `initiator` says whether we began, `first` that there were no keys before."""

    peer: str
    link: object
    initiator: bool
    first: bool


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """We answered `responses` initiations in a row, and nothing came under the keys."""

    peer: str
    link: object
    responses: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What we sent for 15 s stayed unanswered. `answered` says that all we ever got is the last handshake."""

    peer: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """The peer is reached over `link` now."""

    peer: str
    link: object


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another connection to the peer carries its packets: close `link`."""

    peer: str
    link: object


@dataclass(frozen=True, slots=True)
class Stalled:
    """A connection delivered no answer to our initiation for 90 s: close `link`."""

    peer: str
    link: object


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon of the peer was started anew."""

    peer: str


@dataclass(frozen=True, slots=True)
class Compared:
    """The settings that both ends must agree on were compared; empty when they do."""

    peer: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class SaidGoodbye:
    """The peer shut down."""

    peer: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """All keys are dropped, as they are too old."""

    peer: str


@dataclass(frozen=True, slots=True)
class Refused:
    """`count` messages or packets were refused for `reason` since this was last told.

    `peer` is empty for a stranger. `link` is where the last of them came from. `detail` depends on the reason:
    UNKNOWN_PEER the static public key (bytes), OLD_TIMESTAMP how many seconds it is too old (float), OTHER_SETTINGS
    what the sender speaks (str), WRONG_SOURCE the packet's header (bytes); else None.
    """

    reason: Reason
    peer: str
    link: object
    detail: Detail
    count: int


Event = (
    Initiated
    | GaveUp
    | Established
    | Unconfirmed
    | Unanswered
    | Moved
    | Superseded
    | Stalled
    | Restarted
    | Compared
    | SaidGoodbye
    | Forgotten
    | Refused
)


class Ledger:
    """What was refused, counted by reason; for each reason and peer the last case is kept until it is told."""

    def __init__(self) -> None:
        self.drops: Counter[Reason] = Counter()
        self._untold: dict[tuple[Reason, str], tuple[object, Detail, int]] = {}

    def refuse(self, reason: Reason, link: object, *, peer: str = "", detail: Detail = None, count: int = 1) -> None:
        """Count `count` refusals from `link`; `peer` only when it is proved, or our own configuration says so."""
        self.drops[reason] += count
        _, _, before = self._untold.get((reason, peer), (None, None, 0))
        self._untold[reason, peer] = link, detail, before + count

    def poll_event(self) -> Refused | None:
        """One reason that grew since it was last told; None when that was all."""
        if not self._untold:
            return None
        (reason, peer), (link, detail, count) = self._untold.popitem()
        return Refused(reason, peer, link, detail, count)
