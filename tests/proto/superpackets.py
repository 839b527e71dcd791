"""Packets of one flow, and the super-packet that stands for a run of them. Written apart from what is tested."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from hypothesis import strategies as st

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
ETHERNET = bytes.fromhex("020000000002020000000001")
TAG = bytes.fromhex("81002064")
NEEDS_CSUM = 1
ECN = 0x80
SOURCES = {4: bytes((10, 1, 0, 2)), 6: bytes.fromhex("fd01000000000000 0000000000000002")}
DESTINATIONS = {4: bytes((10, 2, 0, 2)), 6: bytes.fromhex("fd02000000000000 0000000000000002")}


@dataclass(frozen=True)
class Flow:
    """What the packets of a flow have in common, and what the first of them says."""

    version: int = 4
    tcp: bool = True
    ethernet: bool = False
    tagged: bool = False
    hops: int = 64
    identification: int = 0xFFFE
    ip_options: bytes = b""
    tcp_options: bytes = bytes.fromhex("0101080a0000000100000002")
    sequence: int = 0xFFFFFC00
    flags: int = ACK

    @property
    def network(self) -> int:
        return self.ethernet * (14 + 4 * self.tagged)

    @property
    def transport(self) -> int:
        return self.network + (40 if self.version == 6 else 20 + len(self.ip_options))

    @property
    def payload(self) -> int:
        """The length of all headers."""
        return self.transport + (20 + len(self.tcp_options) if self.tcp else 8)

    @property
    def gso_type(self) -> int:
        return (1 if self.version == 4 else 4) if self.tcp else 5

    @property
    def checksum_at(self) -> int:
        return self.transport + (16 if self.tcp else 6)

    def packet(self, payload: bytes) -> bytes:
        """A whole packet with right lengths and checksums."""
        protocol = 6 if self.tcp else 17
        addresses = SOURCES[self.version] + DESTINATIONS[self.version]
        transport = self._tcp(payload) if self.tcp else self._udp(payload)
        pseudo = addresses + struct.pack("!II", len(transport), protocol)
        check = 0xFFFF ^ words(pseudo + transport)
        check = check or 0xFFFF * (not self.tcp)
        at = self.checksum_at - self.transport
        transport = transport[:at] + struct.pack("!H", check) + transport[at + 2 :]
        if self.version == 4:
            size = 20 + len(self.ip_options)
            words_of_header = 0x40 | size // 4, 0x12, size + len(transport), self.identification, 0x4000
            ip = struct.pack("!BBHHHBBH", *words_of_header, self.hops, protocol, 0) + addresses + self.ip_options
            ip = ip[:10] + struct.pack("!H", 0xFFFF ^ words(ip)) + ip[12:]
        else:
            ip = struct.pack("!IHBB", 0x61234567, len(transport), protocol, self.hops) + addresses
        return self._frame() + ip + transport

    def segments(self, payload: bytes, size: int) -> list[bytes]:
        """The packets that carry `payload`, `size` bytes in each but the last."""
        flows = []
        starts = range(0, len(payload), size)
        for number, start in enumerate(starts):
            flags = self.flags
            if start != starts[-1]:
                flags &= ~(FIN | PSH)
            if number > 0:
                flags &= ~CWR
            flow = replace(
                self,
                identification=(self.identification + number) % 2**16,
                sequence=(self.sequence + start) % 2**32,
                flags=flags,
            )
            flows.append(flow.packet(payload[start : start + size]))
        return flows

    def whole(self, payload: bytes) -> bytes:
        """The one long packet, its checksum unfinished: the sum of the pseudo-header, as a kernel leaves it."""
        packet = self.packet(payload)
        carried = len(packet) - self.transport
        pseudo = (
            SOURCES[self.version] + DESTINATIONS[self.version] + struct.pack("!II", carried, 6 if self.tcp else 17)
        )
        return packet[: self.checksum_at] + struct.pack("!H", words(pseudo)) + packet[self.checksum_at + 2 :]

    def virtio(self, size: int, **other: int) -> bytes:
        """The virtio header for segments of `size` bytes; `other` are the fields that differ from what is right."""
        fields = {
            "flags": NEEDS_CSUM,
            "gso_type": self.gso_type | ECN * (self.tcp and bool(self.flags & CWR)),
            "hdr_len": 0xDEAD,
            "gso_size": size,
            "csum_start": self.transport,
            "csum_offset": self.checksum_at - self.transport,
        }
        assert other.keys() <= fields.keys()
        return struct.pack("<BBHHHH", *(fields | other).values())

    def super_packet(self, payload: bytes, size: int, **other: int) -> bytes:
        """The body of kind 2."""
        return self.virtio(size, **other) + self.whole(payload)

    def slices(self, payload: bytes, size: int, **other: int) -> list[bytes]:
        """The bodies of kind 3, in order."""
        start = self.virtio(size, **other) + self.whole(payload)[: self.payload]
        return [start + payload[at : at + size] for at in range(0, len(payload), size)]

    def _frame(self) -> bytes:
        kind = b"\x08\x00" if self.version == 4 else b"\x86\xdd"
        return (ETHERNET + TAG * self.tagged + kind) * self.ethernet

    def _tcp(self, payload: bytes) -> bytes:
        offset = (20 + len(self.tcp_options)) // 4 << 4
        header = struct.pack("!HHIIBBHHH", 40000, 5001, self.sequence, 7, offset, self.flags, 512, 0, 0)
        return header + self.tcp_options + payload

    def _udp(self, payload: bytes) -> bytes:
        return struct.pack("!HHHH", 40000, 5001, 8 + len(payload), 0) + payload


def words(data: bytes) -> int:
    """The ones' complement sum of 16-bit words, as RFC 1071 says it."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _options(most: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, most // 4).map(lambda count: b"\x01" * 4 * count)


FLOWS = st.builds(
    Flow,
    version=st.sampled_from([4, 6]),
    tcp=st.booleans(),
    ethernet=st.booleans(),
    tagged=st.booleans(),
    identification=st.integers(0, 0xFFFF),
    ip_options=_options(40),
    tcp_options=_options(40),
    sequence=st.integers(0, 0xFFFFFFFF),
    flags=st.integers(0, 0xFF),
)
