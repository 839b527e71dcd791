"""TAI64N labels: the timestamps by which a responder tells a new initiation from a replayed one.

12 bytes, big-endian: 2^62 + 10 + seconds since 1970 in 8, nanoseconds in 4. They sort as bytes.
"""

from __future__ import annotations

import struct
from typing import Final

from tunneld.proto.errors import BadPacket, Reason

LABEL: Final = struct.Struct(">QI")
BASE: Final = (1 << 62) + 10
NANOSECONDS: Final = 1_000_000_000

# Rounded down to a multiple of this many nanoseconds (17 ms), a stamp tells little about our clock.
WHITENING: Final = 1 << 24

# A responder takes the initiations of one peer no closer than this, in seconds; WireGuard's 50 a second.
INITIATION_INTERVAL: Final = 0.02

NEVER: Final = bytes(LABEL.size)

assert WHITENING / NANOSECONDS < INITIATION_INTERVAL


def stamp(wall: float) -> bytes:
    """The label of `wall`, in seconds since 1970, whitened."""
    seconds, nanoseconds = divmod(int(wall * NANOSECONDS), NANOSECONDS)
    return LABEL.pack(BASE + seconds, nanoseconds - nanoseconds % WHITENING)


def later(label: bytes, seconds: int) -> bytes:
    """The label `seconds` after `label`."""
    whole, nanoseconds = LABEL.unpack(label)
    return LABEL.pack(whole + seconds, nanoseconds)


def seconds_between(older: bytes, newer: bytes) -> float:
    """How many seconds `newer` is after `older`; negative if before. Takes any 12 bytes each."""
    seconds, nanoseconds = (
        after - before for before, after in zip(LABEL.unpack(older), LABEL.unpack(newer), strict=True)
    )
    return float(seconds + nanoseconds / NANOSECONDS)


class Stamper:
    """Stamps of one initiator: each greater than the one before, whatever the clock does.

    A responder remembers the greatest stamp of every peer, so after a restart with a clock that fell back we would be
    refused. Save `floor` ahead of use and give it to the next Stamper.
    """

    def __init__(self, floor: bytes = NEVER) -> None:
        """No stamp will be less than the label `floor`."""
        self._next = floor
        self._last = NEVER

    def next(self, wall: float) -> bytes:
        """The stamp of an initiation at `wall`, in seconds since 1970."""
        self._last = max(stamp(wall), self._next)
        self._next = _step(self._last)
        return self._last

    @property
    def floor(self) -> bytes:
        """What the next start must not go below: 1 s after the last stamp, or the floor of this start."""
        return self._next if self._last == NEVER else later(self._last, 1)


def _step(label: bytes) -> bytes:
    """The next label that whitening leaves as it is."""
    whole, nanoseconds = LABEL.unpack(label)
    nanoseconds += WHITENING - nanoseconds % WHITENING
    return LABEL.pack(whole + 1, 0) if nanoseconds >= NANOSECONDS else LABEL.pack(whole, nanoseconds)


class StampGuard:
    """The greatest stamp that a responder has taken from one peer."""

    def __init__(self) -> None:
        self.last = NEVER

    def take_untrusted(self, label: bytes) -> None:
        """Take `label` as the last one. Raises BadPacket(OLD_TIMESTAMP) and changes nothing if it is not greater."""
        if label <= self.last:
            raise BadPacket(Reason.OLD_TIMESTAMP)
        self.last = label

    def reset(self) -> None:
        """Forget: the next label is taken, whatever it is."""
        self.last = NEVER
