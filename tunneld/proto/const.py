"""Numbers that both ends must agree on or that bound what a peer can cost us, each with its reason."""

from __future__ import annotations

from typing import Final

# simpletun's prefix: one unsigned 16-bit length in network byte order before every packet.
PREFIX_BYTES: Final = 2
MAX_PACKET_BYTES: Final = 0xFFFF

# simpletun's port, and so ours.
DEFAULT_PORT: Final = 55555

# An Ethernet header and one 802.1Q tag, which no MTU counts.
ETHERNET_BYTES: Final = 18

# The payload of an unfragmented datagram on a 1500-byte path under IPv6 and UDP; several packets share a
# datagram only up to here, so that aggregation never causes fragmentation by itself.
DATAGRAM_BYTES: Final = 1500 - 40 - 8

# The largest payload of a UDP datagram over IPv4 (RFC 768: 65,535 - 20 - 8).
MAX_DATAGRAM_BYTES: Final = 65507

# A UDP peer that was learnt from its first datagram is forgotten after this much silence, in seconds.
FIRST_SENDER_HOLD: Final = 60.0

# Reconnect delays in seconds: the first, and the most.
BACKOFF_FIRST: Final = 0.2
BACKOFF_MOST: Final = 30.0

assert DATAGRAM_BYTES <= MAX_DATAGRAM_BYTES < MAX_PACKET_BYTES
assert BACKOFF_FIRST < BACKOFF_MOST < FIRST_SENDER_HOLD
