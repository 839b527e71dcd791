"""A peer of a sealed tunnel: who it is, what it may do, and what is known of it across sessions and links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunneld.proto.allowedips import Network
from tunneld.proto.controlchannel import Difference, Hello
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.handshake import Remote
from tunneld.proto.payload import Payload
from tunneld.proto.prober import Prober
from tunneld.proto.tai64n import INITIATION_INTERVAL, StampGuard

if TYPE_CHECKING:
    from tunneld.proto.association import Association


class Peer:
    """One configured peer.

    `keepalive` is in seconds, 0 for none. With `pin_endpoint` messages go to the configured endpoint alone, wherever
    the peer's come from. `association` is the one that carries packets now. `wanted` says that packets came while
    there was none; who waits for that sets it back. `latest_handshake` is the CLOCK_BOOTTIME second of the last one
    that both ends completed. The counters of bytes are of messages, without outer headers.
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
        self.association: Association | None = None
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
