"""Whether handshakes cost so much right now that senders have to prove their address first.

A forged initiation with a right MAC1 costs 0.1 ms, a true one some 0.4 ms. So 500 a second are at most a fifth of the
one core that the packets need as well.
"""

from __future__ import annotations

from typing import Final

# So many handshake messages within so many seconds are a load, which is taken to last for a second more.
MESSAGES: Final = 50
PERIOD: Final = 0.1
LASTS: Final = 1.0


class Load:
    """Counts handshake messages that were made for our key. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._count = 0
        self._until = float("-inf")

    def heavy(self, now: float) -> bool:
        """Count one more message; whether we are under load."""
        if now - self._began >= PERIOD:
            self._began, self._count = now, 0
        self._count += 1
        if self._count > MESSAGES:
            self._until = now + LASTS
        return now < self._until
