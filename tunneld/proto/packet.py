"""What a packet says of itself: how long it is, and where its headers begin and end.

Nothing here changes a packet. Every length is compared with the bytes that are there before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tunneld.proto.const import ETHERNET_HEADER_BYTES, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from tunneld.proto.errors import BadPacket, Reason

TCP: Final = 6
UDP: Final = 17
UDP_HEADER_BYTES: Final = 8
_TCP_HEADER_BYTES: Final = 20

_U16: Final = struct.Struct("!H")
_VLAN: Final = 0x8100
_VLAN_BYTES: Final = 4
_IP_VERSIONS: Final = {0x0800: 4, 0x86DD: 6}

# Of the IPv4 field with flags and offset: more fragments, and the offset. Any of them makes a fragment.
_FRAGMENT: Final = 0x3FFF


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a TCP or UDP packet begin, as offsets from its first byte.

    `network` is the IP header, `transport` the TCP or UDP header, `payload` what follows it, and `end` is where the
    packet ends by what its IP header states. `version` is IP's, `protocol` TCP or UDP.
    """

    version: int
    protocol: int
    network: int
    transport: int
    payload: int
    end: int


def ip_packet_untrusted(packet: memoryview, most: int) -> memoryview:
    """The IP packet at the start of `packet`, without what lies behind the length that its header states.

    Raises BadPacket: TRUNCATED if it is shorter than its header or than it says, NOT_IP, or OVERSIZED beyond
    `most` bytes.
    """
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        raise BadPacket(Reason.TRUNCATED)
    version = packet[0] >> 4
    if version == 4:
        stated = packet[2] << 8 | packet[3]
        if stated < IPV4_HEADER_BYTES:
            raise BadPacket(Reason.TRUNCATED)
    elif version == 6:
        stated = IPV6_HEADER_BYTES + (packet[4] << 8 | packet[5])
    else:
        raise BadPacket(Reason.NOT_IP)
    if stated > size:
        raise BadPacket(Reason.TRUNCATED)
    if stated > most:
        raise BadPacket(Reason.OVERSIZED)
    return packet if stated == size else packet[:stated]


def frame_untrusted(frame: memoryview, most: int) -> memoryview:
    """`frame` itself. Raises BadPacket: TRUNCATED without a whole Ethernet header, OVERSIZED beyond `most` bytes."""
    if len(frame) < ETHERNET_HEADER_BYTES:
        raise BadPacket(Reason.TRUNCATED)
    if len(frame) > most:
        raise BadPacket(Reason.OVERSIZED)
    return frame


def layout_untrusted(packet: memoryview, *, ethernet: bool) -> Layout:
    """Where the headers of `packet` stand, of which at least the headers must be there.

    Accepted is TCP or UDP directly behind IPv4, or behind IPv6 without extension headers; with `ethernet`, in a
    frame with at most one 802.1Q tag. Raises BadPacket: TRUNCATED if a header is not whole or the stated length
    does not hold it, NOT_IP without a frame, MALFORMED for a fragment, another protocol, or headers that disagree.
    """
    network, said = _ethernet_untrusted(packet) if ethernet else (0, None)
    ip = packet[network:]
    if len(ip) < IPV4_HEADER_BYTES:
        raise BadPacket(Reason.TRUNCATED)
    version = ip[0] >> 4
    if said not in (None, version):
        raise BadPacket(Reason.MALFORMED)
    if version == 4:
        size, protocol, stated = (ip[0] & 0xF) * 4, ip[9], _u16(ip, 2)
        if size < IPV4_HEADER_BYTES or _u16(ip, 6) & _FRAGMENT:
            raise BadPacket(Reason.MALFORMED)
    elif version == 6:
        size, protocol, stated = IPV6_HEADER_BYTES, ip[6], IPV6_HEADER_BYTES + _u16(ip, 4)
    else:
        raise BadPacket(Reason.NOT_IP)
    transport, end = network + size, network + stated
    payload = transport + _transport_size_untrusted(packet[transport:], protocol)
    if payload > end or payload > len(packet):
        raise BadPacket(Reason.TRUNCATED)
    if protocol == UDP and _u16(packet, transport + 4) != end - transport:
        raise BadPacket(Reason.MALFORMED)
    return Layout(version, protocol, network, transport, payload, end)


def _ethernet_untrusted(frame: memoryview) -> tuple[int, int]:
    """Where the IP header of `frame` begins, and the version of IP that the EtherType says."""
    size = ETHERNET_HEADER_BYTES
    if len(frame) >= size and _u16(frame, size - 2) == _VLAN:
        size += _VLAN_BYTES
    if len(frame) < size:
        raise BadPacket(Reason.TRUNCATED)
    version = _IP_VERSIONS.get(_u16(frame, size - 2))
    if version is None:
        raise BadPacket(Reason.MALFORMED)
    return size, version


def _transport_size_untrusted(transport: memoryview, protocol: int) -> int:
    """The length of the header of TCP or UDP at the start of `transport`, which may be more than is there."""
    if protocol == UDP:
        return UDP_HEADER_BYTES
    if protocol != TCP:
        raise BadPacket(Reason.MALFORMED)
    if len(transport) < _TCP_HEADER_BYTES:
        raise BadPacket(Reason.TRUNCATED)
    size = (transport[12] >> 4) * 4
    if size < _TCP_HEADER_BYTES:
        raise BadPacket(Reason.MALFORMED)
    return size


def _u16(data: memoryview, at: int) -> int:
    (value,) = _U16.unpack_from(data, at)
    return int(value)
