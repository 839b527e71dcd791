"""What is known of the peer right now, in one word and one reason; each change is one line in the log.

Over TCP whoever reaches our port can cause changes, thousands a second. So the lines are limited, and with them what
is done at each change; the last change is always told, by `settle`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

from tunneld.log import Limited

log = logging.getLogger("tunneld.peer")

# A cause that was told is not told again for so many seconds.
QUIET = 60.0


class State(Enum):
    """`up` means that the link stands; with `plain` over UDP, that the peer was heard lately."""

    DOWN = "down"
    LISTENING = "listening"
    CONNECTING = "connecting"
    UP = "up"


class PeerState:
    """The state of the peer called `name`. `changed` is called after every change that is logged."""

    def __init__(self, name: str, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.name = name
        self._clock = clock
        self._changed = changed
        self._limited = Limited(log)
        self._told: dict[str, float] = {}
        self.state = State.DOWN
        self.reason = "starting"
        self.since = clock()
        self.link: str | None = None

    def become(self, state: State, reason: str, *, link: str | None = None, cause: str = "") -> None:
        """Enter `state` because of `reason`. `link` describes the link that stands; alone it is not worth a line.

        `cause` names a trouble. Reasons of one cause differ in their numbers: within a state, one of them a minute is
        told, as a warning.
        """
        self.link = link
        if (state, reason) == (self.state, self.reason):
            return
        now = self._clock()
        entered = state is not self.state
        self.state, self.reason = state, reason
        if entered:
            self.since = now
        if cause:
            if not entered and now - self._told.get(cause, -QUIET) < QUIET:
                return
            self._told[cause] = now
        kind = f"peer {self.name}"
        if self._limited.log(
            logging.WARNING if cause else logging.INFO, now, kind, "%s: %s: %s", kind, state.value, reason
        ):
            self._changed()

    def tell(self, news: str) -> None:
        """Log what changes nothing. It counts as a change, so that no peer can write more than the lines of those."""
        kind = f"peer {self.name}"
        self._limited.log(logging.INFO, self._clock(), kind, "%s: %s", kind, news)

    def settle(self) -> None:
        """Tell how many changes were withheld, and what they came to; call it every few seconds."""
        if self._limited.settle(self._clock()):
            log.info("peer %s: %s: %s", self.name, self.state.value, self.reason)
            self._changed()
