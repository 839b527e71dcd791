"""The one reader of the clock. Everything else is given `now`."""

from __future__ import annotations

import time


def now() -> float:
    """CLOCK_BOOTTIME in seconds: it never goes back, and it counts the time that a laptop sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """CLOCK_REALTIME in seconds since 1970: for timestamps that others see, never for deadlines."""
    return time.clock_gettime(time.CLOCK_REALTIME)
