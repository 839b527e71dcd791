"""What drops mean that an operator can mend: told in the log while they happen, not only counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from tunneld.proto.errors import Reason

log = logging.getLogger("tunneld.drops")

# Seconds between two looks; and how long a reason that was told is not told again.
LOOK_EVERY = 2.0
QUIET = 60.0

ADVICE = {
    Reason.WRONG_MODE: "the peer is in the other mode; write the same mode at both ends (simpletun: -u or -a)",
    Reason.OVERSIZED: "packets are larger than the device takes; set the same mtu at both ends",
    Reason.TRUNCATED: "datagrams end in the middle of a packet; the other end does not speak plain",
}


class Advisor:
    """Remembers what was told. `drops` gives all that was dropped since the start."""

    def __init__(self, drops: Callable[[], Counter[Reason]], clock: Callable[[], float]) -> None:
        self._drops = drops
        self._clock = clock
        self._told: dict[Reason, tuple[int, float]] = {}

    async def run(self) -> NoReturn:
        """Tell until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.tell()

    def tell(self) -> None:
        """One line for each reason that grew, unless it was told within the last minute."""
        drops, now = self._drops(), self._clock()
        for reason, advice in ADVICE.items():
            count, when = self._told.get(reason, (0, -QUIET))
            if drops[reason] > count and now - when >= QUIET:
                log.warning("dropped %d (%s): %s", drops[reason] - count, reason.value, advice)
                self._told[reason] = (drops[reason], now)
