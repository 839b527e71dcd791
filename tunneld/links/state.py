"""What is known of the peer right now, in one word and one reason; each change is one line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

log = logging.getLogger("tunneld.peer")


class State(Enum):
    """`up` means that the link stands; with `plain` over UDP, that the peer was heard lately."""

    DOWN = "down"
    LISTENING = "listening"
    CONNECTING = "connecting"
    UP = "up"


class PeerState:
    """The state of the peer called `name`. `changed` is called after every change."""

    def __init__(self, name: str, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.name = name
        self._clock = clock
        self._changed = changed
        self.state = State.DOWN
        self.reason = "starting"
        self.since = clock()
        self.link: str | None = None

    def become(self, state: State, reason: str, *, link: str | None = None) -> None:
        """Enter `state` because of `reason`; `link` describes the link that stands."""
        if (state, reason, link) == (self.state, self.reason, self.link):
            return
        if state is not self.state:
            self.since = self._clock()
        self.state, self.reason, self.link = state, reason, link
        log.info("peer %s: %s: %s", self.name, state.value, reason)
        self._changed()
