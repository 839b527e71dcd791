"""What is inside the seal of a data message: `BarePayload` as in WireGuard, `KindPayload` as in tunneld.

Both pack the packets of a batch into plaintexts and take plaintexts apart again. Nothing inside is counted
on: the peer has the keys, but it may be broken or hostile. Every length is checked before it is used.

An empty plaintext is a keepalive and holds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import PREFIX, Buffer
from tunneld.proto.packet import frame_untrusted, ip_packet_untrusted
from tunneld.proto.superpacket import segments_untrusted, slice_untrusted

# The first byte of a plaintext of tunneld.
KIND_PACKETS: Final = 1
KIND_SUPER_PACKET: Final = 2
KIND_SLICE: Final = 3
KIND_CONTROL: Final = 4

KEEPALIVE: Final = b""

# Behind so many that are no packets the rest of a plaintext is not looked at: 64 KiB could hold 20,000 of one byte,
# which take 50 ms to count. Oversized ones are packets, and so long that few fit.
FAULTS_MAX: Final = 16

PADDING_BYTES: Final = 16
_ZEROS: Final = bytes(PADDING_BYTES)


@dataclass(slots=True)
class Unpacked:
    """What a batch of plaintexts held. The views are into the plaintexts, or own what they show.

    `control` holds the bodies for `controlchannel.decode_untrusted`, padding included.
    """

    packets: list[memoryview] = field(default_factory=list)
    control: list[memoryview] = field(default_factory=list)


class Payload(Protocol):
    """One way of putting packets into plaintexts. `drops` counts what was found in them and refused.

    `max_packet` is the longest packet that the device takes, in bytes; it may be changed at any time.
    """

    max_packet: int
    drops: Counter[Reason]

    def pack(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        """The plaintexts that carry `packets`, in order; they may share the packets' memory.

        Raises struct.error for a packet over 65,535 bytes, which no device gives.
        """

    def unpack_untrusted(self, plaintexts: Iterable[Buffer], counters: Sequence[int] | None = None) -> Unpacked:
        """What the device and the control channel can take of `plaintexts`; the rest is counted.

        `counters` are those of the plaintexts, one each, if they came in datagrams; None says that it was a stream.
        """


class BarePayload:
    """WireGuard's: a plaintext is one IP packet, zeros behind it.

    `max_packet` is the longest packet the device takes, in bytes; what padding would grow beyond
    it is not padded at all, since the way may be a little narrower than the device says. It may
    be changed at any time.
    """

    def __init__(self, *, max_packet: int) -> None:
        self.max_packet = max_packet
        self.drops: Counter[Reason] = Counter()

    def pack(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        most = self.max_packet
        plaintexts: list[Buffer] = []
        for packet in packets:
            size = len(packet)
            padding = -size % PADDING_BYTES
            fits = 0 < padding <= most - size
            plaintexts.append(b"".join((packet, _ZEROS[:padding])) if fits else packet)
        return plaintexts

    def unpack_untrusted(self, plaintexts: Iterable[Buffer], counters: Sequence[int] | None = None) -> Unpacked:
        unpacked = Unpacked()
        for plaintext in plaintexts:
            if plaintext:
                try:
                    unpacked.packets.append(ip_packet_untrusted(memoryview(plaintext), self.max_packet))
                except BadPacket as bad:
                    self.drops[bad.reason] += 1
        return unpacked


class KindPayload:
    """tunneld's: a kind byte; for packets, `u16 big-endian length | packet` repeated, then zeros.

    Super-packets, which come on a stream, and slices of them, which come in datagrams, are cut into packets; none
    are made.

    `max_plaintext` is the longest plaintext that fits the path, in bytes: packets share a plaintext and padding
    grows it only up to there. A packet that is too long for it travels alone, for the link to judge.
    `max_packet` is the longest packet the device takes, with its Ethernet header if there is one. Both may be
    changed at any time. `ethernet` says whether packets are frames.
    """

    def __init__(self, *, max_packet: int, max_plaintext: int, ethernet: bool) -> None:
        self.max_packet = max_packet
        self.max_plaintext = max_plaintext
        self.drops: Counter[Reason] = Counter()
        self._ethernet = ethernet
        self._checked: Callable[[memoryview, int], memoryview] = frame_untrusted if ethernet else ip_packet_untrusted

    def pack(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        most = self.max_plaintext
        plaintexts: list[Buffer] = []
        parts: list[Buffer] = [bytes((KIND_PACKETS,))]
        size = 1
        for packet in packets:
            more = PREFIX.size + len(packet)
            if size + more > most and size > 1:
                plaintexts.append(self._padded(parts, size))
                parts, size = [bytes((KIND_PACKETS,))], 1
            parts += (PREFIX.pack(len(packet)), packet)
            size += more
        if size > 1:
            plaintexts.append(self._padded(parts, size))
        return plaintexts

    def control(self, body: bytes) -> bytes:
        """The plaintext that carries `body`, the messages of the control channel."""
        return self._padded([bytes((KIND_CONTROL,)), body], 1 + len(body))

    def unpack_untrusted(self, plaintexts: Iterable[Buffer], counters: Sequence[int] | None = None) -> Unpacked:
        unpacked = Unpacked()
        for place, plaintext in enumerate(plaintexts):
            if not plaintext:
                continue
            kind = plaintext[0]
            if kind == KIND_PACKETS:
                self._split_untrusted(memoryview(plaintext), unpacked.packets)
            elif kind == KIND_CONTROL:
                unpacked.control.append(memoryview(plaintext)[1:])
            elif kind == KIND_SUPER_PACKET and counters is None:
                unpacked.packets += self._segments_untrusted(memoryview(plaintext)[1:], None)
            elif kind == KIND_SLICE and counters is not None:
                unpacked.packets += self._segments_untrusted(memoryview(plaintext)[1:], counters[place])
            else:
                self.drops[Reason.UNKNOWN_KIND] += 1
        return unpacked

    def _padded(self, parts: list[Buffer], size: int) -> bytes:
        padding = min(-size % PADDING_BYTES, self.max_plaintext - size)
        if padding > 0:
            parts.append(_ZEROS[:padding])
        return b"".join(parts)

    def _split_untrusted(self, view: memoryview, packets: list[memoryview]) -> None:
        """Add the packets that are whole and fit the device; a length of 0 begins the padding."""
        at, end, faults = 1, len(view), 0
        while end - at >= PREFIX.size:
            (length,) = PREFIX.unpack_from(view, at)
            if length == 0:
                return
            at += PREFIX.size
            if length > end - at:
                self.drops[Reason.TRUNCATED] += 1
                return
            try:
                packets.append(self._checked(view[at : at + length], self.max_packet))
            except BadPacket as bad:
                self.drops[bad.reason] += 1
                faults += bad.reason is not Reason.OVERSIZED
                if faults == FAULTS_MAX:
                    return
            at += length

    def _segments_untrusted(self, view: memoryview, counter: int | None) -> list[memoryview]:
        """The packets of a super-packet, or of the one slice with `counter`; none if it is bad, which is counted."""
        most, ethernet = self.max_packet, self._ethernet
        try:
            if counter is None:
                segments = segments_untrusted(view, most=most, ethernet=ethernet)
            else:
                segments = [slice_untrusted(view, counter, most=most, ethernet=ethernet)]
        except BadPacket as bad:
            self.drops[bad.reason] += 1
            return []
        return [memoryview(segment) for segment in segments]
