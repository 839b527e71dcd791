"""The three places of a peer's sessions, by WireGuard's names and rules.

- `current`: what we seal with.
- `previous`: the one before; it still opens what was under way.
- `next`: a responder's new session. Only a message under its keys shows that the initiator has them, so until
  one was opened we do not seal with it, and whatever lies in `current` stays in use. A replayed initiation
  therefore displaces nothing.

Sessions that leave their place are handed back, so that the owner frees their indices.
"""

from __future__ import annotations

from tunneld.proto.const import FORGET_AFTER_TIME
from tunneld.proto.session import Session


class KeySlots:
    """The sessions of one peer. Times are CLOCK_BOOTTIME seconds.

    `heard` says whether a message was opened with `current`; whoever opens one sets it.
    """

    def __init__(self) -> None:
        self.previous: Session | None = None
        self.current: Session | None = None
        self.next: Session | None = None
        self.heard = False

    @property
    def crossed(self) -> bool:
        """Whether the peer may be sealing with `previous` still: if both ends began at once, it goes on doing so."""
        return self.previous is not None and not self.heard

    def install(self, session: Session) -> list[Session]:
        """Take in the session that a handshake just gave; returns those that are forgotten for it.

        An initiator has the responder's answer, which confirms the keys: its session is current at once. If
        the peer began a handshake meanwhile, that session stays as previous: the peer may be sealing with it. So does
        previous if the peer was heard in no later one. A responder has but an initiation, which may be a replay: only
        what was next goes.
        """
        before = self.sessions()
        if session.initiator:
            used = self.previous if self.crossed else self.current
            self.previous, self.next = self.next or used, None
            self.current, self.heard = session, False
        else:
            self.next = session
        return self._gone(before)

    def confirm(self) -> list[Session]:
        """A message was opened with `next`, which is current now; returns what is forgotten for it."""
        before = self.sessions()
        self.previous, self.current, self.next = self.current, self.next, None
        self.heard = True
        return self._gone(before)

    def sealing(self, now: float) -> Session | None:
        """The session to seal with at `now`; None if there is none within its limits."""
        current = self.current
        return current if current is not None and current.can_seal(now) else None

    def sessions(self) -> list[Session]:
        """All there are, the newest first."""
        return [session for session in (self.next, self.current, self.previous) if session is not None]

    def forget_confirmed(self) -> list[Session]:
        """Drop `previous` and `current`, for the peer has them no more; `next`, which is newer, waits on."""
        gone = [session for session in (self.current, self.previous) if session is not None]
        self.previous = self.current = None
        return gone

    def forget(self) -> list[Session]:
        """Drop all keys at once; returns the sessions that held them."""
        gone = self.sessions()
        self.previous = self.current = self.next = None
        return gone

    def poll_timeout(self) -> tuple[float, str] | None:
        """When all keys are to be dropped, 540 s after the last handshake, and why; None without keys."""
        sessions = self.sessions()
        if not sessions:
            return None
        return max(session.born for session in sessions) + FORGET_AFTER_TIME, "the keys are old"

    def handle_timeout(self, now: float) -> list[Session]:
        """Drop all keys if their time is over; returns the sessions that held them."""
        deadline = self.poll_timeout()
        return self.forget() if deadline is not None and now >= deadline[0] else []

    def _gone(self, before: list[Session]) -> list[Session]:
        """Those of `before` that have no place any more."""
        left = self.sessions()
        return [session for session in before if session not in left]
