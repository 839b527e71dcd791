"""Packets of one peer that cannot be sealed yet: there are no keys, or the connection takes no more.

Sealed messages never wait here, as one that is then not sent would leave a gap in the counters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from tunneld.proto.const import MAX_QUEUED_PACKETS, MAX_STAGED_PACKETS
from tunneld.proto.framing import Buffer

# So much is taken out at once; then whoever sends looks whether more is taken.
PORTION_PACKETS: Final = 16
PORTION_BYTES: Final = 128 * 1024
# What waits for a connection, in bytes.
MAX_QUEUED_BYTES: Final = 512 * 1024


def portion(messages: Sequence[Buffer]) -> int:
    """How many of the first of `messages` go out at once: some 128 KiB of them."""
    octets = 0
    for count, message in enumerate(messages):
        if octets >= PORTION_BYTES:
            return count
        octets += len(message)
    return len(messages)


class Staging:
    """Copies of packets, in order. Each call that may drop some returns how many it dropped."""

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque()
        self._octets = 0

    def __len__(self) -> int:
        return len(self._packets)

    def stage(self, packets: Sequence[Buffer]) -> int:
        """For want of keys: the 128 newest stay."""
        for packet in packets:
            self._add(packet)
        dropped = max(len(self._packets) - MAX_STAGED_PACKETS, 0)
        for _ in range(dropped):
            self._octets -= len(self._packets.popleft())
        return dropped

    def queue(self, packets: Sequence[Buffer]) -> int:
        """For want of room: the 256 oldest stay, 512 KiB at most."""
        dropped = 0
        for packet in packets:
            if len(self._packets) < MAX_QUEUED_PACKETS and self._octets + len(packet) <= MAX_QUEUED_BYTES:
                self._add(packet)
            else:
                dropped += 1
        return dropped

    def portion(self) -> list[bytes]:
        """The oldest ones, up to 16 or some 128 KiB."""
        portion: list[bytes] = []
        octets = 0
        while self._packets and len(portion) < PORTION_PACKETS and octets < PORTION_BYTES:
            portion.append(self._packets.popleft())
            octets += len(portion[-1])
        self._octets -= octets
        return portion

    def purge(self) -> int:
        """Drop everything."""
        dropped = len(self._packets)
        self._packets.clear()
        self._octets = 0
        return dropped

    def _add(self, packet: Buffer) -> None:
        self._packets.append(bytes(packet))
        self._octets += len(packet)
