"""The protocol `plain`: simpletun's. Packets travel as they are, in clear, with nothing but their length.

On a stream a message is one packet and the link writes the length before it; in a datagram a message is
one or more `length | packet`. There is no handshake, no keepalive and no proof of who sent what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from tunneld.proto import framing
from tunneld.proto.const import DATAGRAM_BYTES, MAX_PACKET_BYTES
from tunneld.proto.errors import Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.source import Address

# IPv4, ARP, IPv6, 802.1Q: what a host sends first on an Ethernet.
ETHERTYPES = frozenset({b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00"})


class PlainTunnel:
    """Turns packets into messages and back. `drops` counts what was refused, by reason.

    `mode` is the device's, "tun" or "tap". `max_packet` is the longest packet that it takes, in bytes; it may be
    changed at any time.
    """

    def __init__(self, *, mode: str, max_packet: int = 0) -> None:
        self.max_packet = max_packet
        self.drops: Counter[Reason] = Counter()
        self._of_other_mode = is_frame if mode == "tun" else is_ip
        self._link: object | None = None
        self._messages: Sequence[Buffer] = ()

    def attach(self, link: object) -> None:
        """`link` is the way to the peer from now on."""
        self._link = link

    def close(self, link: object) -> None:
        """`link` is gone; harmless if another took its place."""
        if self._link is link:
            self._link = None

    def enqueue(self, packets: Sequence[Buffer], now: float) -> None:
        """Packets of the device; they are dropped if there is no link."""
        if self._link is None:
            self.drops[Reason.NO_LINK] += len(packets)
        else:
            self._messages = self.to_messages(packets)

    def receive_untrusted(self, link: object, messages: Sequence[memoryview], now: float) -> Sequence[memoryview]:
        """The packets for the device."""
        return self.to_packets_untrusted(messages)

    def poll_transmit(self, now: float) -> tuple[object, Sequence[Buffer]] | None:
        """What is to be sent over which link; None when that was all."""
        messages, self._messages = self._messages, ()
        return (self._link, messages) if messages else None

    def unblocked(self, link: object) -> None:
        """Nothing waits."""

    def poll_timeout(self) -> None:
        """Nothing is ever due."""

    def handle_timeout(self, now: float) -> None:
        """Nothing is ever due."""

    def to_messages(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        """The messages that carry `packets`, in their order; may share the packets' memory."""
        return self._expressible(packets)

    def to_packets_untrusted(self, messages: Iterable[memoryview]) -> list[memoryview]:
        """The packets in `messages` that the device can take, as views into them; the rest is counted."""
        return self._fitting(messages)

    def _expressible(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        # A tagged frame of a TAP device with the largest MTU has 65,539 bytes, more than a length can say.
        if max(map(len, packets), default=0) <= MAX_PACKET_BYTES:
            return packets
        expressible = [packet for packet in packets if len(packet) <= MAX_PACKET_BYTES]
        self.drops[Reason.OVERSIZED] += len(packets) - len(expressible)
        return expressible

    def _fitting(self, packets: Iterable[memoryview]) -> list[memoryview]:
        most, of_other_mode = self.max_packet, self._of_other_mode
        fitting: list[memoryview] = []
        for packet in packets:
            if not packet:
                self.drops[Reason.EMPTY] += 1
            elif of_other_mode(packet):
                self.drops[Reason.WRONG_MODE] += 1
            elif len(packet) > most:
                self.drops[Reason.OVERSIZED] += 1
            else:
                fitting.append(packet)
        return fitting


class PlainDatagramTunnel(PlainTunnel):
    """The same over UDP: packets that wait together share a datagram, a lone packet goes out at once."""

    def to_messages(self, packets: Sequence[Buffer]) -> Sequence[Buffer]:
        return framing.group(self._expressible(packets), DATAGRAM_BYTES)

    def to_packets_untrusted(self, messages: Iterable[memoryview]) -> list[memoryview]:
        packets: list[memoryview] = []
        for message in messages:
            records, fault = framing.split_untrusted(message)
            if fault is not None:
                self.drops[fault.reason] += 1
            packets += records
        return self._fitting(packets)


def is_frame(packet: memoryview) -> bool:
    """Whether what came for a TUN device is an Ethernet frame: no IP version in front, and a known EtherType.

    `packet` is not empty. A frame to an address that begins like an IP packet is not told; broadcasts always are.
    """
    return packet[0] >> 4 not in (4, 6) and bytes(packet[12:14]) in ETHERTYPES


def is_ip(packet: memoryview) -> bool:
    """Whether what came for a TAP device is an IP packet: it says its own length (RFC 791, RFC 8200), and has no
    EtherType where a frame has one. `packet` is not empty.
    """
    version = packet[0] >> 4
    if version == 4:
        length = int.from_bytes(packet[2:4], "big")
    elif version == 6:
        length = int.from_bytes(packet[4:6], "big") + 40
    else:
        return False
    return length == len(packet) and bytes(packet[12:14]) not in ETHERTYPES


def opener_rank(opener: Address) -> tuple[int, int, int]:
    """What decides between two TCP connections of the same two ends: the lower opener's connection stays.

    `opener` is the address, numeric, of the end that connected; both ends see the same unless NAT lies between.
    """
    ip = ip_address(opener[0].partition("%")[0])
    return ip.version, int(ip), opener[1]
