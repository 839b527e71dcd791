from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lab import decode

MACS = bytes.fromhex("020000000002020000000001")
UDP4 = bytes.fromhex("4500002100014000401100000a0900010a090002c35c1b5f000d0000") + b"hello"
TCP4 = bytes.fromhex("450000290001400040060000c0000201c0000202d903d904000000010000000250180100000000") + b"\x00x"
ECHO4 = bytes.fromhex("4500001c00010000400100000a0900010a090002 08000000 00010001")
UDP6 = bytes.fromhex("60000000000a1140 20010db8000000000000000000000001 20010db8000000000000000000000002")
UDP6 += bytes.fromhex("c35c1b5f000a0000") + b"hi"
NS6 = bytes.fromhex("6000000000183aff 20010db8000000000000000000000001 20010db8000000000000000000000002")
NS6 += bytes([135]) + bytes(23)
MLD6 = bytes.fromhex("6000000000240001 fe800000000000000000000000000001 ff020000000000000000000000000016")
MLD6 += bytes.fromhex("3a00050200000000") + bytes([143]) + bytes(27)
ASK = bytes.fromhex("0001080006040001 020000000001 0a140001 000000000000 0a140002")
TELL = bytes.fromhex("0001080006040002 020000000002 0a140002 020000000001 0a140001")


@pytest.mark.parametrize(
    ("packet", "line"),
    [
        (UDP4, "10.9.0.1:50012 > 10.9.0.2:7007 UDP, 5 bytes: 68 65 6c 6c 6f  |hello|"),
        (TCP4, "192.0.2.1:55555 > 192.0.2.2:55556 TCP PA, 1 bytes: 78  |x|"),
        (ECHO4, "10.9.0.1 > 10.9.0.2 ICMP echo request, 0 bytes"),
        (UDP6, "[2001:db8::1]:50012 > [2001:db8::2]:7007 UDP, 2 bytes: 68 69  |hi|"),
        (NS6, "2001:db8::1 > 2001:db8::2 ICMPv6 neighbour solicitation, 16 bytes"),
        (MLD6, "fe80::1 > ff02::16 ICMPv6 multicast report, 20 bytes"),
        (UDP4[:6] + b"\x20\x07" + UDP4[8:], "10.9.0.1 > 10.9.0.2 fragment, 33 bytes"),
        (UDP4[:9] + b"\x2f" + UDP4[10:], "10.9.0.1 > 10.9.0.2 protocol 47, 13 bytes"),
        (b"\x00\x01", "no IP packet, 2 bytes: 00 01  |..|"),
        (b"", "no IP packet, 0 bytes"),
    ],
    ids=["udp", "tcp", "echo", "udp6", "neighbour", "extension", "fragment", "gre", "junk", "empty"],
)
def test_ip(packet: bytes, line: str):
    assert decode.ip(packet) == line


def test_padding_behind_the_packet_is_not_payload():
    assert decode.ethernet(MACS + b"\x08\x00" + UDP4 + bytes(20)) == decode.ip(UDP4)


def test_without_payload():
    assert decode.ip(UDP4, shown=0) == "10.9.0.1:50012 > 10.9.0.2:7007 UDP, 5 bytes"
    assert decode.ethernet(MACS + b"\x08\x00" + UDP4, shown=2).endswith("5 bytes: 68 65  |he|")


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (MACS + b"\x86\xdd" + UDP6, decode.ip(UDP6)),
        (MACS + b"\x08\x06" + ASK, "ARP who has 10.20.0.2? tell 10.20.0.1"),
        (MACS + b"\x08\x06" + TELL, "ARP 10.20.0.2 is at 02:00:00:00:00:02"),
        (MACS + b"\x88\xcc\x00", "02:00:00:00:00:01 > 02:00:00:00:00:02 type 0x88cc, 15 bytes"),
        (MACS, "truncated frame, 12 bytes"),
    ],
    ids=["ipv6", "arp-request", "arp-reply", "unknown", "truncated"],
)
def test_ethernet(frame: bytes, line: str):
    assert decode.ethernet(frame) == line


def test_dump_lines_up_and_shows_no_control_characters():
    assert decode.dump(b"\x1b[31mA" + bytes(3), width=4) == [
        "1b 5b 33 31  |.[31|",
        "6d 41 00 00  |mA..|",
        "00           |.|",
    ]


@given(st.binary(max_size=100), st.sampled_from([b"", UDP4, TCP4, ECHO4, UDP6, NS6, MLD6]), st.integers(0, 100))
def test_any_bytes_are_one_printable_line(junk, packet, cut):
    for data in (junk, packet[:cut] + junk):
        for line in (decode.ip(data), decode.ethernet(data), decode.ethernet(MACS + b"\x08\x06" + data)):
            assert line.isascii()
            assert line.isprintable()
