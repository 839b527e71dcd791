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
    """The sessions of one peer. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self.previous: Session | None = None
        self.current: Session | None = None
        self.next: Session | None = None

    def install(self, session: Session) -> list[Session]:
        """Take in the session that a handshake just gave; returns those that are forgotten for it.

        An initiator has the responder's answer, which confirms the keys: its session is current at once. If
        the peer began a handshake meanwhile, that session stays as previous: the peer may be sealing with it.
        """
        before = self.sessions()
        if session.initiator:
            self.previous, self.next = self.next or self.current, None
            self.current = session
        else:
            self.previous, self.next = None, session
        left = self.sessions()
        return [old for old in before if old not in left]

    def opened_with(self, session: Session) -> bool:
        """To be told of every session that opened a message. True: it was next and is current now."""
        if session is not self.next:
            return False
        assert self.previous is None, "install empties it for the sake of this moment"
        self.previous, self.current, self.next = self.current, session, None
        return True

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
