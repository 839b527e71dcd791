"""The Internet checksum of IP, TCP and UDP (RFC 1071)."""

from __future__ import annotations

from tunneld.proto.framing import Buffer


def checksum(data: Buffer, also: int = 0) -> int:
    """The complement of the 16-bit ones' complement sum of `data` and the number `also`, 0 to 0xfffe.

    An odd last byte counts as if a zero followed. Data and `also` must not both be zero throughout, which no
    header and no pseudo-header is.
    """
    # 2^16 is 1 modulo 65,535, so the remainder of the whole number is the sum of its words with end-around carry.
    return -((int.from_bytes(data, "big") << 8 * (len(data) % 2)) + also) % 0xFFFF
