"""The timers of one peer, by WireGuard's names and moments (WireGuard paper, section 6).

The data path reports moments, and asks what is due; only this module knows deadlines. Each timer is off, or stands at
one moment:

- `RETRANSMIT_HANDSHAKE`: an initiation stayed unanswered.
- `SEND_KEEPALIVE`: we received data and sent nothing since; the peer would take us for dead.
- `NEW_HANDSHAKE`: we sent data and received nothing since; the peer may have lost the keys.
- `PERSISTENT_KEEPALIVE`: nothing went either way for the configured time; a NAT would forget us.

Times are CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from tunneld.proto.const import KEEPALIVE_TIMEOUT, REKEY_JITTER, REKEY_TIMEOUT


class Timer(Enum):
    """The value says why something is due."""

    RETRANSMIT_HANDSHAKE = "the initiation stayed unanswered"
    SEND_KEEPALIVE = "the peer waits for a sign of life"
    NEW_HANDSHAKE = "what we sent stayed unanswered"
    PERSISTENT_KEEPALIVE = "persistent keepalive"


OFF: Final = float("inf")


class Timers:
    """`persistent_keepalive` in seconds, 0 for none; `jitter` gives floats in [0, 1)."""

    def __init__(self, *, persistent_keepalive: float, jitter: Callable[[], float]) -> None:
        self._persistent_keepalive = persistent_keepalive
        self._jitter = jitter
        self._deadlines = dict.fromkeys(Timer, OFF)
        self._another_keepalive = False

    def data_sent(self, now: float) -> None:
        """Packets were sealed and sent: something has to come back."""
        if self._deadlines[Timer.NEW_HANDSHAKE] == OFF:
            self._deadlines[Timer.NEW_HANDSHAKE] = now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self._delay()
        self.any_sent(now)

    def any_sent(self, now: float) -> None:
        """Any authenticated message was sent, handshake and keepalive included."""
        self._deadlines[Timer.SEND_KEEPALIVE] = OFF
        self._any_traversal(now)

    def data_received(self, now: float) -> None:
        """Packets came: the peer has to hear of us."""
        if self._deadlines[Timer.SEND_KEEPALIVE] == OFF:
            self._deadlines[Timer.SEND_KEEPALIVE] = now + KEEPALIVE_TIMEOUT
        else:
            self._another_keepalive = True
        self.any_received(now)

    def any_received(self, now: float) -> None:
        """Any authenticated message came, handshake and keepalive included."""
        self._deadlines[Timer.NEW_HANDSHAKE] = OFF
        self._any_traversal(now)

    def handshake_initiated(self, now: float, patience: float = REKEY_TIMEOUT) -> None:
        """An initiation was sent, whose answer is waited for `patience` seconds."""
        self._deadlines[Timer.RETRANSMIT_HANDSHAKE] = now + patience + self._delay()
        self.any_sent(now)

    def handshake_complete(self) -> None:
        """There are keys that both ends have."""
        self._deadlines[Timer.RETRANSMIT_HANDSHAKE] = OFF

    def stop(self) -> None:
        """Nobody is to be called, and nobody waits for us; only the persistent keepalive goes on."""
        for timer in (Timer.RETRANSMIT_HANDSHAKE, Timer.SEND_KEEPALIVE, Timer.NEW_HANDSHAKE):
            self._deadlines[timer] = OFF
        self._another_keepalive = False

    def poll_timeout(self) -> tuple[float, str] | None:
        """When the next timer is due, and why; None when all are off."""
        timer = min(self._deadlines, key=self._deadlines.__getitem__)
        deadline = self._deadlines[timer]
        return None if deadline == OFF else (deadline, timer.value)

    def handle_timeout(self, now: float) -> list[Timer]:
        """The timers that are due, which are off again, save for the persistent keepalive."""
        due = [timer for timer, deadline in self._deadlines.items() if deadline <= now]
        for timer in due:
            self._deadlines[timer] = OFF
            if timer is Timer.SEND_KEEPALIVE and self._another_keepalive:
                self._another_keepalive = False
                self._deadlines[timer] = now + KEEPALIVE_TIMEOUT
            elif timer is Timer.PERSISTENT_KEEPALIVE:
                self._any_traversal(now)
        return due

    def _any_traversal(self, now: float) -> None:
        if self._persistent_keepalive:
            self._deadlines[Timer.PERSISTENT_KEEPALIVE] = now + self._persistent_keepalive

    def _delay(self) -> float:
        return self._jitter() * REKEY_JITTER
