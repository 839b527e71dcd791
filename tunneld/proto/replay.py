"""Which counters of a session were seen before: the receiver's guard against replayed data messages.

Both rules are asked only about a message whose tag was right, and a counter that they accept is used up.
"""

from __future__ import annotations

from typing import Final, Protocol

from tunneld.proto.const import REJECT_AFTER_MESSAGES, WINDOW

_POSITIONS: Final = 8192
_MASK: Final = _POSITIONS - 1
_BLANK: Final = bytes(_POSITIONS)

assert _POSITIONS > WINDOW


class ReplayRule(Protocol):
    """A rule that says whether an authentic message is new."""

    def accept(self, counter: int) -> bool:
        """Whether `counter` is new, and if so take note of it."""


class ReplayWindow:
    """For UDP: any order within the last 8,128 counters, each at most once.

    RFC 6479's ring, with a byte in place of each bit: Python marks a byte faster than it shifts a word, and a
    jump forward is blanked by one slice. 8 KiB a session.
    """

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._seen = bytearray(_POSITIONS)
        self._newest = -1

    def accept(self, counter: int) -> bool:
        """Whether `counter` was neither seen before nor lies more than 8,128 behind the newest; then it is seen."""
        newest = self._newest
        if counter > newest:
            if counter >= REJECT_AFTER_MESSAGES:
                return False
            if counter > newest + 1:
                self._blank(newest + 1, counter)
            self._newest = counter
        elif counter < newest - WINDOW or self._seen[counter & _MASK]:
            return False
        self._seen[counter & _MASK] = 1
        return True

    def _blank(self, start: int, stop: int) -> None:
        """Forget what the positions of the counters from `start` up to `stop` held a round ago."""
        if stop - start >= _POSITIONS:
            self._seen[:] = _BLANK
            return
        first, last = start & _MASK, stop & _MASK
        if first <= last:
            self._seen[first:last] = _BLANK[: last - first]
        else:
            self._seen[first:] = _BLANK[first:]
            self._seen[:last] = _BLANK[:last]


class Succession:
    """For TCP, which neither loses nor reorders: nothing but the previous counter + 1, from 0."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def accept(self, counter: int) -> bool:
        """Whether `counter` is the next one; then the one after it is."""
        if counter != self._next or counter >= REJECT_AFTER_MESSAGES:
            return False
        self._next = counter + 1
        return True
