"""One line of text for a captured packet: enough to see who talks to whom about what. Pure; never raises."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

SHOWN = 16  # bytes of a payload that are printed

_ARP = 0x0806
_IPV4 = 0x0800
_IPV6 = 0x86DD
_ICMP = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ICMPV6 = {1: "unreachable", 2: "packet too big", 128: "echo request", 129: "echo reply"}
_ICMPV6 |= {133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation"}
_ICMPV6 |= {136: "neighbour advertisement", 143: "multicast report"}
_TCP_FLAGS = "FSRPAU"


def ethernet(frame: bytes, shown: int = SHOWN) -> str:
    """An Ethernet frame, as a TAP device or a cable carries it; of a payload, the first `shown` bytes."""
    if len(frame) < 14:
        return f"truncated frame, {len(frame)} bytes"
    kind = int.from_bytes(frame[12:14], "big")
    if kind in (_IPV4, _IPV6):
        return ip(frame[14:], shown)
    if kind == _ARP and len(frame) >= 42:
        return _arp(frame[14:42])
    return f"{frame[6:12].hex(':')} > {frame[:6].hex(':')} type {kind:#06x}, {len(frame)} bytes"


def ip(packet: bytes, shown: int = SHOWN) -> str:
    """An IP packet of either version, as a TUN device carries it; of a payload, the first `shown` bytes."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        header = (packet[0] & 0x0F) * 4
        length = int.from_bytes(packet[2:4], "big")
        source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return f"{source} > {target} fragment, {length} bytes"
        return _transport(packet[9], f"{source}", f"{target}", packet[header : max(header, length)], shown)
    if version == 6 and len(packet) >= 40:
        length = int.from_bytes(packet[4:6], "big")
        source6, target6 = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        # Of the extension headers, only hop-by-hop (multicast reports) is usual enough to be looked through.
        if packet[6] == 0 and len(packet) >= 48:
            skipped = 8 + packet[41] * 8
            return _transport(packet[40], f"{source6}", f"{target6}", packet[40 + skipped : 40 + length], shown)
        return _transport(packet[6], f"{source6}", f"{target6}", packet[40 : 40 + length], shown)
    return f"no IP packet, {len(packet)} bytes{_colon(packet, shown)}"


def dump(data: bytes, width: int = SHOWN) -> list[str]:
    """Lines of `width` bytes each: in hexadecimal and, where they are ASCII, as they read."""
    lines = []
    for at in range(0, len(data), width):
        row = data[at : at + width]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{row.hex(' '):<{3 * width - 1}}  |{text}|")
    return lines


def _transport(protocol: int, source: str, target: str, segment: bytes, shown: int) -> str:
    if protocol in (6, 17) and len(segment) >= (20 if protocol == 6 else 8):
        source_port, target_port = struct.unpack_from("!HH", segment)
        ends = f"{_with_port(source, source_port)} > {_with_port(target, target_port)}"
        if protocol == 17:
            return f"{ends} UDP, {len(segment) - 8} bytes{_colon(segment[8:], shown)}"
        flags = "".join(letter for bit, letter in enumerate(_TCP_FLAGS) if segment[13] >> bit & 1)
        payload = segment[(segment[12] >> 4) * 4 :]
        return f"{ends} TCP {flags}, {len(payload)} bytes{_colon(payload, shown)}"
    names = {1: _ICMP, 58: _ICMPV6}.get(protocol)
    if names is not None and len(segment) >= 8:
        name = names.get(segment[0], f"type {segment[0]}")
        return f"{source} > {target} {'ICMP' if protocol == 1 else 'ICMPv6'} {name}, {len(segment) - 8} bytes"
    return f"{source} > {target} protocol {protocol}, {len(segment)} bytes"


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _colon(payload: bytes, shown: int) -> str:
    first = payload[:shown]
    return f": {dump(first, len(first))[0]}" if first else ""


def _arp(body: bytes) -> str:
    operation = int.from_bytes(body[6:8], "big")
    mac, sender, target = body[8:14].hex(":"), IPv4Address(body[14:18]), IPv4Address(body[24:28])
    if operation == 1:
        return f"ARP who has {target}? tell {sender}"
    return f"ARP {sender} is at {mac}"
