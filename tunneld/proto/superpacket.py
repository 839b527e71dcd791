"""Super-packets and slices of them, cut into ordinary packets: for a device that takes no super-packets.

A super-packet is a TCP or UDP packet longer than the MTU behind a header that says how to cut it. It comes whole
over TCP and as slices over UDP, each of which stands alone. docs/PROTOCOL.md, 7.3.1, is the whole of the rules.

The peer has the keys, but the header is believed nothing that the packet itself does not say as well.
Checksums are computed afresh: the unfinished one of a super-packet is not looked at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tunneld.proto.checksum import checksum
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.packet import TCP, UDP, Layout, frame_untrusted, ip_packet_untrusted, layout_untrusted
from tunneld.proto.session import BLOCK_COUNTERS

# struct virtio_net_hdr of <linux/virtio_net.h>, always little-endian here:
#   0     flags: NEEDS_CSUM, the checksum field holds the sum of the pseudo-header only
#   1     GSO type, ECN added for TCP whose first segment carries CWR
#   2-3   header length, a hint that is wrong for merged packets: never read
#   4-5   GSO size: payload of every segment but the last
#   6-7   checksum start: the transport header, from the start of the packet
#   8-9   checksum offset: the checksum field, from there
VIRTIO_HEADER: Final = struct.Struct("<BBHHHH")

NEEDS_CSUM: Final = 1
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

_GSO_TYPES: Final = {
    (4, TCP): (GSO_TCPV4, GSO_TCPV4 | GSO_ECN),
    (6, TCP): (GSO_TCPV6, GSO_TCPV6 | GSO_ECN),
    (4, UDP): (GSO_UDP_L4,),
    (6, UDP): (GSO_UDP_L4,),
}
_CHECKSUM_OFFSETS: Final = {TCP: 16, UDP: 6}
# Source and destination, from the start of the IP header.
_ADDRESSES: Final = {4: slice(12, 20), 6: slice(8, 40)}

_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")

_FIN_PSH: Final = 0x01 | 0x08
_CWR: Final = 0x80


@dataclass(frozen=True, slots=True)
class _VirtioHeader:
    flags: int
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a super-packet is cut: into `count` segments with `size` bytes of payload each, the last with the rest."""

    layout: Layout
    size: int
    count: int

    def share(self, number: int) -> slice:
        """Which bytes of the super-packet are the payload of segment `number`."""
        start = self.layout.payload + number * self.size
        return slice(start, min(start + self.size, self.layout.end))

    def segment(self, number: int, headers: memoryview, payload: memoryview) -> bytes:
        """Segment `number` as a packet of its own, from the headers of the super-packet."""
        layout = self.layout
        segment = bytearray(headers)
        segment += payload
        if layout.version == 4:
            _set_ipv4(segment, layout, number)
        else:
            _U16.pack_into(segment, layout.network + 4, len(segment) - layout.transport)
        if layout.protocol == TCP:
            _set_tcp(segment, layout, number * self.size, first=number == 0, last=number == self.count - 1)
        else:
            _U16.pack_into(segment, layout.transport + 4, len(segment) - layout.transport)
        _set_checksum(segment, layout)
        return bytes(segment)


def segments_untrusted(view: memoryview, *, most: int, ethernet: bool) -> list[bytes]:
    """The packets that the body of kind 2 stands for: one or more, each of at most `most` bytes.

    `view` is the virtio header and the packet. With `ethernet` packets are frames, and `most` counts their header.
    Raises BadPacket: MALFORMED, TRUNCATED, OVERSIZED or NOT_IP.
    """
    header, packet = _split_untrusted(view)
    if header.gso_type == GSO_NONE:
        whole = frame_untrusted(packet, most) if ethernet else ip_packet_untrusted(packet, most)
        return [_finished_untrusted(header, whole, ethernet) if header.flags else bytes(whole)]
    cut = _cut_untrusted(header, packet, most, ethernet)
    layout = cut.layout
    if len(packet) < layout.end:
        raise BadPacket(Reason.TRUNCATED)
    headers = packet[: layout.payload]
    return [cut.segment(number, headers, packet[cut.share(number)]) for number in range(cut.count)]


def slice_untrusted(view: memoryview, counter: int, *, most: int, ethernet: bool) -> bytes:
    """The packet that the body of kind 3 stands for, one segment of a super-packet.

    `view` is the virtio header, the headers of the super-packet, and the segment's share of the payload. `counter`
    is that of the data message, whose place in its block says which segment it is. `most`, `ethernet` and what is
    raised are those of `segments_untrusted`.
    """
    number = counter % BLOCK_COUNTERS
    header, packet = _split_untrusted(view)
    cut = _cut_untrusted(header, packet, most, ethernet)
    if number >= cut.count:
        raise BadPacket(Reason.MALFORMED)
    share = cut.share(number)
    payload = packet[cut.layout.payload :]
    if len(payload) != share.stop - share.start:
        raise BadPacket(Reason.TRUNCATED if len(payload) < share.stop - share.start else Reason.MALFORMED)
    return cut.segment(number, packet[: cut.layout.payload], payload)


def _split_untrusted(view: memoryview) -> tuple[_VirtioHeader, memoryview]:
    if len(view) < VIRTIO_HEADER.size:
        raise BadPacket(Reason.TRUNCATED)
    flags, gso_type, _, gso_size, csum_start, csum_offset = VIRTIO_HEADER.unpack_from(view)
    return _VirtioHeader(flags, gso_type, gso_size, csum_start, csum_offset), view[VIRTIO_HEADER.size :]


def _layout_untrusted(header: _VirtioHeader, packet: memoryview, ethernet: bool) -> Layout:
    """The layout of a packet whose checksum is unfinished, where the header agrees with it."""
    layout = layout_untrusted(packet, ethernet=ethernet)
    stated = header.flags, header.csum_start, header.csum_offset
    if stated != (NEEDS_CSUM, layout.transport, _CHECKSUM_OFFSETS[layout.protocol]):
        raise BadPacket(Reason.MALFORMED)
    return layout


def _cut_untrusted(header: _VirtioHeader, packet: memoryview, most: int, ethernet: bool) -> _Cut:
    """How to cut the super-packet whose headers stand at the start of `packet`."""
    layout = _layout_untrusted(header, packet, ethernet)
    size = header.gso_size
    payload = layout.end - layout.payload
    if header.gso_type not in _GSO_TYPES[layout.version, layout.protocol] or size == 0 or payload == 0:
        raise BadPacket(Reason.MALFORMED)
    count = -(-payload // size)
    if count > BLOCK_COUNTERS:
        raise BadPacket(Reason.MALFORMED)
    if layout.payload + min(size, payload) > most:
        raise BadPacket(Reason.OVERSIZED)
    return _Cut(layout, size, count)


def _finished_untrusted(header: _VirtioHeader, packet: memoryview, ethernet: bool) -> bytes:
    """`packet` with its checksum computed, and without what lies behind the end that its IP header states."""
    layout = _layout_untrusted(header, packet, ethernet)
    if len(packet) < layout.end:
        raise BadPacket(Reason.TRUNCATED)
    whole = bytearray(packet[: layout.end])
    _set_checksum(whole, layout)
    return bytes(whole)


def _set_ipv4(packet: bytearray, layout: Layout, number: int) -> None:
    at = layout.network
    (identification,) = _U16.unpack_from(packet, at + 4)
    _U16.pack_into(packet, at + 2, len(packet) - at)
    _U16.pack_into(packet, at + 4, (identification + number) & 0xFFFF)
    _U16.pack_into(packet, at + 10, 0)
    _U16.pack_into(packet, at + 10, checksum(packet[at : layout.transport]))


def _set_tcp(packet: bytearray, layout: Layout, offset: int, *, first: bool, last: bool) -> None:
    """Move the sequence number on by `offset` bytes; FIN and PSH stay in the last segment, CWR in the first."""
    at = layout.transport
    (sequence,) = _U32.unpack_from(packet, at + 4)
    _U32.pack_into(packet, at + 4, (sequence + offset) & 0xFFFFFFFF)
    if not last:
        packet[at + 13] &= ~_FIN_PSH
    if not first:
        packet[at + 13] &= ~_CWR


def _set_checksum(packet: bytearray, layout: Layout) -> None:
    """Write the checksum of TCP or UDP, over the pseudo-header and all from the transport header on."""
    at = layout.transport + _CHECKSUM_OFFSETS[layout.protocol]
    _U16.pack_into(packet, at, 0)
    addresses = packet[layout.network :][_ADDRESSES[layout.version]]
    transport = packet[layout.transport :]
    pseudo_header = int.from_bytes(addresses, "big") + layout.protocol + len(transport)
    value = checksum(transport, pseudo_header)
    # In UDP a checksum of 0 means that there is none.
    _U16.pack_into(packet, at, value or 0xFFFF if layout.protocol == UDP else value)
