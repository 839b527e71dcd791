"""Round-trip time and loss of the way to a peer and back, from probes that it echoes."""

from __future__ import annotations

from collections import deque
from typing import Final

from tunneld.proto.controlchannel import Echo, Probe

# While packets are sent, one probe in so many seconds.
PROBE_INTERVAL: Final = 10.0
# A probe is lost when its echo did not come for so long, in seconds.
PATIENCE: Final = 5.0
# Loss is told of this many probes.
REMEMBERED: Final = 32

# RFC 6298, section 2.3: how much a new measurement counts.
_ALPHA: Final = 1 / 8
_IDENTIFIERS: Final = 1 << 32


class Prober:
    """Makes probes and judges their echoes. Times are CLOCK_BOOTTIME seconds.

    `round_trip` is smoothed, in seconds; None before the first echo.
    """

    def __init__(self) -> None:
        self.round_trip: float | None = None
        self._next = 0
        self._due = float("-inf")
        self._under_way: dict[int, float] = {}
        self._echoed: deque[bool] = deque(maxlen=REMEMBERED)

    @property
    def loss(self) -> float | None:
        """How many of the last 32 probes stayed without an echo, 0 to 1; None before the first is judged."""
        return self._echoed.count(False) / len(self._echoed) if self._echoed else None

    def due(self, now: float) -> bool:
        """Whether it is time for a probe."""
        return now >= self._due

    def probe(self, now: float) -> Probe:
        """A probe that is sent at `now`."""
        self._give_up(now)
        identifier, self._next = self._next, (self._next + 1) % _IDENTIFIERS
        self._under_way[identifier] = now
        self._due = now + PROBE_INTERVAL
        return Probe(identifier)

    def echoed_untrusted(self, echo: Echo, now: float) -> bool:
        """Take in an echo; False if no probe waits for it."""
        sent = self._under_way.pop(echo.identifier, None)
        if sent is None:
            return False
        self._echoed.append(True)
        measured = now - sent
        self.round_trip = measured if self.round_trip is None else (1 - _ALPHA) * self.round_trip + _ALPHA * measured
        self._give_up(now)
        return True

    def forget(self, before: float) -> None:
        """The peer was started anew: what was sent before that moment will not be echoed."""
        self._under_way = {key: sent for key, sent in self._under_way.items() if sent >= before}

    def _give_up(self, now: float) -> None:
        for identifier in [key for key, sent in self._under_way.items() if now - sent >= PATIENCE]:
            del self._under_way[identifier]
            self._echoed.append(False)
