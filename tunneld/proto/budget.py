"""How many handshakes strangers may cost us over connections, where no cookie is asked for, as addresses are proved.

Up to 500 a second all are done. Of more, each network has 20 a second (RateLimiter), and all of them together 500: at
0.2 ms for one of a stranger, a tenth of a core. So a flood from less than 25 networks keeps nobody else out, and one
from more lets a share of the others in.
"""

from __future__ import annotations

from typing import Final

from tunneld.proto.load import MESSAGES, PERIOD, Load
from tunneld.proto.ratelimiter import RateLimiter

PER_SECOND: Final = MESSAGES / PERIOD


class HandshakeBudget:
    """Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._load = Load()
        self._limiter = RateLimiter()
        self._left = float(MESSAGES)
        self._filled = 0.0

    def allow(self, address: bytes, now: float) -> bool:
        """Whether a handshake message of `address`, 4 or 16 bytes, that was made for our key may cost us more."""
        if not self._load.heavy(now):
            return True
        return self._limiter.allow(address, now) and self._take(now)

    def expire(self, now: float) -> None:
        """Drop what is known of networks that were idle; for a caller that is awake anyway."""
        self._limiter.expire(now)

    def _take(self, now: float) -> bool:
        """Take one of the 500 a second that all networks share, of which 50 can be saved."""
        self._left = min(self._left + (now - self._filled) * PER_SECOND, float(MESSAGES))
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
