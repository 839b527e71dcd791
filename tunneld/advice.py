"""What drops mean that an operator can mend: told in the log while they happen, not only counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import NoReturn

from tunneld.proto.errors import Reason
from tunneld.remedies import REMEDIES

log = logging.getLogger("tunneld.drops")

# Seconds between two looks; and how long a reason that was told is not told again.
LOOK_EVERY = 2.0
QUIET = 60.0

# The reasons that tell of a mistake somewhere. Those of a sealed tunnel that have an event of their own are told by
# its Diagnosis.
PLAIN = (Reason.WRONG_MODE, Reason.OVERSIZED, Reason.TRUNCATED)
SEALED = (Reason.OVERSIZED, Reason.TRUNCATED, Reason.NOT_IP, Reason.UNKNOWN_KIND, Reason.FORGED)


class Advisor:
    """Tells of `reasons`, and remembers what it told. `drops` gives all that was dropped since the start."""

    def __init__(
        self, drops: Callable[[], Counter[Reason]], reasons: Collection[Reason], clock: Callable[[], float]
    ) -> None:
        self._drops = drops
        self._reasons = reasons
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
        for reason in self._reasons:
            count, when = self._told.get(reason, (0, -QUIET))
            if drops[reason] > count and now - when >= QUIET:
                log.warning("dropped %d (%s): %s", drops[reason] - count, reason.value, REMEDIES[reason])
                self._told[reason] = (drops[reason], now)
