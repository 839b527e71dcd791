"""How long to wait before the next try: doubling, bounded, jittered so that two ends do not march in step."""

from __future__ import annotations

from collections.abc import Callable

from tunneld.proto.const import BACKOFF_FIRST, BACKOFF_MOST


class Backoff:
    """Delays in seconds from 0.2 to 30. `random` gives floats in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._next = BACKOFF_FIRST

    def delay(self) -> float:
        """The delay before the next try: between half of and the whole current step, which then doubles."""
        step = self._next
        self._next = min(step * 2, BACKOFF_MOST)
        return max(BACKOFF_FIRST, step * (0.5 + self._random() / 2))

    def reset(self) -> None:
        """Start anew after a success that held."""
        self._next = BACKOFF_FIRST
