"""A learning switch between the device and the peers, for Ethernet frames.

Policy

- An address is learnt from the source of a frame and forgotten after 300 s without one. All VLANs share the
  table.
- An address belongs to the peer that used it first until it is forgotten: a frame with it from another peer is
  dropped, so nobody can draw another peer's traffic to itself. The price is that a host which moves between two
  peers is cut off until its old peer has been silent about it for 300 s. The device is our own side: what comes
  from there is believed and moves an address at once.
- A peer has at most 64 addresses. A frame with one more is dropped, not flooded unlearnt: otherwise the answers
  to it would go to everybody, which is what a flood of addresses is for.
- Frames to 01:80:c2:00:00:00..0f (spanning tree, LLDP, pause, LACP) stay on their link and are dropped.
- What has to go to several ports (broadcast, multicast, unknown destinations) is limited for each peer to
  1,000 frames a second. The device is not limited: a switch in front of it is to do that.

Not handled: loops between several switches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Generic, TypeVar

from tunneld.proto.const import ETHERNET_HEADER_BYTES
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer

P = TypeVar("P", bound=Hashable)

MACS_PER_PEER: Final = 64
# The device may have a whole segment behind it; where it is full, the address that was silent longest goes.
MACS_OF_DEVICE: Final = 4096
# IEEE 802.1D's ageing time, and the Linux bridge's, in seconds.
AGEING: Final = 300.0
FLOODS_PER_SECOND: Final = 1000

_LINK_LOCAL: Final = b"\x01\x80\xc2\x00\x00"


def is_link_local(frame: Buffer) -> bool:
    """Whether `frame`, 6 bytes at least, goes to a group address that no bridge forwards (IEEE 802.1Q, 8.6.3)."""
    return bytes(frame[:5]) == _LINK_LOCAL and frame[5] < 16


class Port(Generic[P]):
    """What is known behind a port: its addresses by when they were last seen, and its allowance of floods."""

    __slots__ = ("allowance", "filled", "name", "seen")

    def __init__(self, name: P, now: float) -> None:
        self.name = name
        self.seen: dict[bytes, float] = {}
        self.allowance = float(FLOODS_PER_SECOND)
        self.filled = now

    def may_flood(self, now: float) -> bool:
        """Take one from the allowance, which fills by 1,000 a second up to a second's worth."""
        filled = self.allowance + (now - self.filled) * FLOODS_PER_SECOND
        self.allowance = min(filled, float(FLOODS_PER_SECOND))
        self.filled = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def refresh(self, mac: bytes, now: float) -> None:
        """Note that `mac` was seen; the dict stays in the order of the last sightings."""
        self.seen.pop(mac, None)
        self.seen[mac] = now

    def expired(self, now: float) -> list[bytes]:
        """The addresses that were not seen for 300 s."""
        expired = []
        for mac, seen in self.seen.items():
            if now - seen < AGEING:
                break
            expired.append(mac)
        return expired


class Switch(Generic[P]):
    """Says to which ports a frame goes. `device` names the port of our own device, peers are added by name.

    Times are CLOCK_BOOTTIME seconds and must not decrease.
    """

    def __init__(self, device: P, macs_per_peer: int = MACS_PER_PEER) -> None:
        self._macs_per_peer = macs_per_peer
        self._device: Port[P] = Port(device, 0.0)
        self._ports: dict[P, Port[P]] = {device: self._device}
        self._table: dict[bytes, Port[P]] = {}

    def add(self, peer: P, now: float) -> None:
        """A port for `peer`, which must not have one yet."""
        assert peer not in self._ports
        self._ports[peer] = Port(peer, now)

    def addresses(self, name: P, now: float) -> list[bytes]:
        """The addresses known behind a port, the one that was silent longest first. Raises KeyError."""
        self._age(self._ports[name], now)
        return list(self._ports[name].seen)

    def forward_untrusted(self, frame: Buffer, source: P, now: float) -> Sequence[P]:
        """The ports to which `frame`, which came in at `source`, is to go; none if its way leads back.

        Raises BadPacket: TRUNCATED, MALFORMED for a source that is a group, BPDU, MAC_TAKEN, MAC_LIMIT, STORM.
        A frame that is refused for one of the first four teaches nothing. Raises KeyError for an unknown port.
        """
        port = self._ports[source]
        if len(frame) < ETHERNET_HEADER_BYTES:
            raise BadPacket(Reason.TRUNCATED)
        head = bytes(frame[:12])
        destination, mac = head[:6], head[6:]
        if mac[0] & 1:
            raise BadPacket(Reason.MALFORMED)
        if is_link_local(destination):
            raise BadPacket(Reason.BPDU)
        self._learn(mac, port, now)
        known = self._table.get(destination)
        if known is not None and now - known.seen[destination] < AGEING:
            return () if known is port else (known.name,)
        if port is not self._device and not port.may_flood(now):
            raise BadPacket(Reason.STORM)
        return [name for name in self._ports if name != source]

    def _learn(self, mac: bytes, port: Port[P], now: float) -> None:
        owner = self._table.get(mac)
        if owner is not port:
            if owner is not None:
                self._move(mac, owner, port, now)
            self._make_room(port, now)
            self._table[mac] = port
        port.refresh(mac, now)

    def _move(self, mac: bytes, owner: Port[P], port: Port[P], now: float) -> None:
        if port is not self._device and now - owner.seen[mac] < AGEING:
            raise BadPacket(Reason.MAC_TAKEN)
        self._forget(mac)

    def _make_room(self, port: Port[P], now: float) -> None:
        most = MACS_OF_DEVICE if port is self._device else self._macs_per_peer
        if len(port.seen) < most:
            return
        self._age(port, now)
        if len(port.seen) < most:
            return
        if port is not self._device:
            raise BadPacket(Reason.MAC_LIMIT)
        self._forget(next(iter(port.seen)))

    def _age(self, port: Port[P], now: float) -> None:
        for mac in port.expired(now):
            self._forget(mac)

    def _forget(self, mac: bytes) -> None:
        del self._table.pop(mac).seen[mac]
