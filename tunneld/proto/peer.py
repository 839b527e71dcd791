"""A peer of a sealed tunnel: who it is, what it may do, and what is known of it across sessions and links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tunneld.proto.allowedips import Network
from tunneld.proto.controlchannel import Difference, Hello, compare
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Compared, Restarted
from tunneld.proto.framing import Buffer
from tunneld.proto.handshake import Remote
from tunneld.proto.payload import Payload
from tunneld.proto.prober import Prober
from tunneld.proto.tai64n import INITIATION_INTERVAL, StampGuard


class Link(Protocol):
    """The way to a peer, as far as it matters here."""

    @property
    def blocked(self) -> bool:
        """Whether it takes no more for now."""


class Conversation(Protocol):
    """What carries the packets of a peer: an Association."""

    link: Link | None
    opened_by_us: bool

    def enqueue(self, packets: Sequence[Buffer], now: float) -> None: ...

    def initiate(self, now: float) -> None: ...

    def call(self, now: float) -> bool: ...


class Peer:
    """One configured peer.

    `keepalive` is in seconds, 0 for none. With `pin_endpoint` messages go to the configured endpoint alone, wherever
    the peer's come from. `association` is the one that carries packets now. `wanted` says that packets came while
    there was none; who waits for that sets it back. `latest_handshake` is the CLOCK_BOOTTIME second of the last one
    that both ends completed. The counters of bytes are of messages without outer headers, as `wg` has them: with
    handshakes, without cookies.
    """

    def __init__(
        self,
        name: str,
        remote: Remote,
        payload: Payload,
        *,
        allowed_ips: Sequence[Network] = (),
        keepalive: float = 0.0,
        pin_endpoint: bool = False,
    ) -> None:
        self.name = name
        self.remote = remote
        self.payload = payload
        self.allowed_ips = tuple(allowed_ips)
        self.keepalive = keepalive
        self.pin_endpoint = pin_endpoint
        self.association: Conversation | None = None
        self.wanted = False
        self.prober = Prober()
        self.hello: Hello | None = None
        self.differences: tuple[Difference, ...] = ()
        self.latest_handshake: float | None = None
        self.latest_received: float | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self._stamps = StampGuard()
        self._latest_initiation = float("-inf")

    def __repr__(self) -> str:
        return f"Peer({self.name!r})"

    @property
    def last_stamp(self) -> bytes:
        """The greatest TAI64N label that an initiation of the peer had, 12 bytes."""
        return self._stamps.last

    def admit_initiation_untrusted(self, timestamp: bytes, now: float) -> None:
        """Take note of an initiation that the peer made at some time.

        Raises BadPacket, and changes nothing: RATE_LIMITED within 20 ms of the last one, OLD_TIMESTAMP for a replay
        or a clock that went back.
        """
        if now - self._latest_initiation < INITIATION_INTERVAL:
            raise BadPacket(Reason.RATE_LIMITED)
        self._stamps.take_untrusted(timestamp)
        self._latest_initiation = now

    def reset_timestamp(self) -> None:
        """Take the next initiation whatever its timestamp: for a peer whose clock was ahead once and is right now."""
        self._stamps.reset()

    def greet(self, ours: Hello, theirs: Hello, since: float) -> list[Restarted | Compared]:
        """Take in the settings of the peer, from a session `since` then; `ours` are what we told it. Returns news."""
        news: list[Restarted | Compared] = []
        before, self.hello = self.hello, theirs
        if before is not None and before.epoch != theirs.epoch:
            self.prober.forget(since)
            news.append(Restarted(self.name))
        differences = tuple(compare(ours, theirs))
        if before is None or differences != self.differences:
            self.differences = differences
            news.append(Compared(self.name, differences))
        return news
