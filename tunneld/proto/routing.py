"""Whose packets are whose: cryptokey routing for IP packets, a switch for Ethernet frames, and one peer alone.

`divide` says to which peers packets of the device go; `admit_untrusted` which packets of a peer may go on, and
where. Both report what they refuse to the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tunneld.proto.allowedips import AllowedIPs
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Ledger
from tunneld.proto.framing import Buffer
from tunneld.proto.peer import Peer
from tunneld.proto.switch import FLOODS_PER_SECOND, Switch, is_link_local

# So much of a packet shows who sent it.
HEADER_BYTES: Final = 40

Parts = Iterable[tuple[Peer, Sequence[Buffer]]]


class Routing(Protocol):
    """One way of telling whose packets are whose. Times are CLOCK_BOOTTIME seconds."""

    def divide(self, packets: Sequence[Buffer], now: float) -> Parts:
        """The peers that `packets` of the device go to, each with its own, in order."""

    def admit_untrusted(
        self, packets: Sequence[memoryview], peer: Peer, now: float
    ) -> tuple[Sequence[memoryview], Parts]:
        """Of `packets` from `peer`, what the device gets, and what other peers get."""


class CryptokeyRouting:
    """IP packets, by `allowed_ips` both ways."""

    def __init__(self, peers: Sequence[Peer], ledger: Ledger) -> None:
        self._ledger = ledger
        self._table: AllowedIPs[Peer] = AllowedIPs()
        for peer in peers:
            self._table.insert(peer.allowed_ips, peer)
        self._sole = self._table.sole()

    def divide(self, packets: Sequence[Buffer], now: float) -> Parts:
        if self._sole is not None:
            return ((self._sole, packets),)
        destination = self._table.destination
        parts: dict[Peer, list[Buffer]] = {}
        for packet in packets:
            peer = destination(packet)
            if peer is None:
                self._ledger.refuse(Reason.NO_ROUTE, None, detail=bytes(packet[:HEADER_BYTES]))
            else:
                parts.setdefault(peer, []).append(packet)
        return parts.items()

    def admit_untrusted(
        self, packets: Sequence[memoryview], peer: Peer, now: float
    ) -> tuple[Sequence[memoryview], Parts]:
        if self._sole is peer:
            return packets, ()
        source = self._table.source_untrusted
        admitted = [packet for packet in packets if source(packet) is peer]
        if len(admitted) < len(packets):
            refused = [packet for packet in packets if source(packet) is not peer]
            self._ledger.refuse(
                Reason.WRONG_SOURCE,
                None,
                peer=peer.name,
                detail=bytes(refused[-1][:HEADER_BYTES]),
                count=len(refused),
            )
        return admitted, ()


class SwitchRouting:
    """Ethernet frames between the device and several peers."""

    def __init__(self, peers: Sequence[Peer], ledger: Ledger, macs_per_peer: int, now: float) -> None:
        self._ledger = ledger
        self._switch: Switch[Peer | None] = Switch(None, macs_per_peer)
        for peer in peers:
            self._switch.add(peer, now)

    def divide(self, packets: Sequence[Buffer], now: float) -> Parts:
        parts: dict[Peer, list[Buffer]] = {}
        for packet in packets:
            try:
                ports = self._switch.forward_untrusted(packet, None, now)
            except BadPacket as bad:
                self._ledger.drops[bad.reason] += 1
                continue
            for peer in ports:
                assert peer is not None, "a frame does not go back"
                parts.setdefault(peer, []).append(packet)
        return parts.items()

    def admit_untrusted(
        self, packets: Sequence[memoryview], peer: Peer, now: float
    ) -> tuple[Sequence[memoryview], Parts]:
        device: list[memoryview] = []
        parts: dict[Peer, list[Buffer]] = {}
        for packet in packets:
            try:
                ports = self._switch.forward_untrusted(packet, peer, now)
            except BadPacket as bad:
                self._ledger.refuse(bad.reason, None, peer=peer.name)
                continue
            for port in ports:
                if port is None:
                    device.append(packet)
                else:
                    parts.setdefault(port, []).append(packet)
        return device, parts.items()


class CableRouting:
    """Ethernet frames between the device and the only peer: nothing to learn, but the same limits."""

    def __init__(self, peer: Peer, ledger: Ledger) -> None:
        self._peer = peer
        self._ledger = ledger
        self._allowance = float(FLOODS_PER_SECOND)
        self._filled = 0.0

    def divide(self, packets: Sequence[Buffer], now: float) -> Parts:
        kept = [packet for packet in packets if not (packet[0] & 1 and is_link_local(packet))]
        self._ledger.drops[Reason.BPDU] += len(packets) - len(kept)
        return ((self._peer, kept),) if kept else ()

    def admit_untrusted(
        self, packets: Sequence[memoryview], peer: Peer, now: float
    ) -> tuple[Sequence[memoryview], Parts]:
        if not any(packet[0] & 1 for packet in packets):
            return packets, ()
        return [packet for packet in packets if not packet[0] & 1 or self._takes(packet, now)], ()

    def _takes(self, group: memoryview, now: float) -> bool:
        if is_link_local(group):
            self._ledger.refuse(Reason.BPDU, None, peer=self._peer.name)
            return False
        filled = self._allowance + (now - self._filled) * FLOODS_PER_SECOND
        self._allowance, self._filled = min(filled, float(FLOODS_PER_SECOND)), now
        if self._allowance < 1:
            self._ledger.refuse(Reason.STORM, None, peer=self._peer.name)
            return False
        self._allowance -= 1
        return True
