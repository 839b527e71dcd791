"""What true peers seal: one of each kind."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_network

from tunneld.proto import controlchannel
from tunneld.proto.controlchannel import Echo, Goodbye, Hello, Probe


def true_plaintexts() -> Iterator[bytes]:
    """One of each kind that there is or may be, and bare packets."""
    ipv4 = b"\x45\x00\x00\x54" + bytes(4) + b"\x40\x06" + bytes(2) + b"\x0a\x00\x00\x01\x0a\x00\x00\x02" + bytes(64)
    ipv6 = b"\x60\x00\x00\x00\x00\x14\x06\x40" + (b"\xfd" + bytes(15)) * 2 + bytes(20)
    frame = b"\x02\x00\x00\x00\x00\x01" * 2 + b"\x08\x00" + ipv4
    group = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x03\x86\xdd" + ipv6
    records = b"".join(struct.pack("!H", len(packet)) + packet for packet in (ipv4, ipv6, frame, group))
    # A TCP segment of 32 + 600 bytes that is to be cut into three, behind its virtio header.
    tcp = b"\x04\x00\x04\x00" + bytes(8) + b"\x80\x10" + bytes(18)
    large = b"\x45\x00\x02\x8c" + ipv4[4:20] + tcp + bytes(600)
    virtio = struct.pack("<BBHHHH", 1, 1, 52, 200, 20, 16)
    long = b"\x45\x00\x05\xdc" + ipv4[4:20] + bytes(1480)
    yield from (long, b"\x01\x05\xdc" + long + b"\x05\xea" + frame[:14] + long)
    yield from (ipv4, ipv6, b"\x01" + records, b"\x01" + records[: 2 + len(ipv4)] + bytes(9))
    yield from (b"\x02" + virtio + large, b"\x03" + virtio + large[:252])
    yield from (b"\x04" + body for body in true_bodies())
    yield from (b"\x05" + ipv4, b"\x06" + ipv4)


def true_bodies() -> Iterator[bytes]:
    prefixes = tuple(ip_network(text) for text in ("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/33", "fd00::1/128"))
    hello = Hello(bytes(range(8)), 1400, "tun", prefixes)
    for messages in ([hello], [hello, Probe(7, 40)], [Probe(1), Echo(1, 6)], [Goodbye()]):
        yield controlchannel.encode(messages) + bytes(8)
