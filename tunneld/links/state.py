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
        self.state = State.DOWN
        self.reason = "starting"
        self.since = clock()
        self.link: str | None = None

    def become(self, state: State, reason: str, *, link: str | None = None) -> None:
        """Enter `state` because of `reason`. `link` describes the link that stands; alone it is not worth a line."""
        self.link = link
        if (state, reason) == (self.state, self.reason):
            return
        now = self._clock()
        if state is not self.state:
            self.since = now
        self.state, self.reason = state, reason
        kind = f"peer {self.name}"
        if self._limited.log(logging.INFO, now, kind, "%s: %s: %s", kind, state.value, reason):
            self._changed()

    def settle(self) -> None:
        """Tell how many changes were withheld, and what they came to; call it every few seconds."""
        if self._limited.settle(self._clock()):
            log.info("peer %s: %s: %s", self.name, self.state.value, self.reason)
            self._changed()
