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

# The shortest headers, below which nothing is looked at.
IPV4_HEADER_BYTES: Final = 20
IPV6_HEADER_BYTES: Final = 40
ETHERNET_HEADER_BYTES: Final = 14

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

# The life of a session, by WireGuard's names and in seconds. The end that initiated it asks for a new one from
# REKEY_AFTER_TIME on; neither uses it past REJECT_AFTER_TIME.
REKEY_AFTER_TIME: Final = 120.0
REJECT_AFTER_TIME: Final = 180.0
REKEY_TIMEOUT: Final = 5.0
KEEPALIVE_TIMEOUT: Final = 10.0
# An initiation that stays unanswered is repeated after REKEY_TIMEOUT and up to this much more, in seconds, until
# REKEY_ATTEMPT_TIME is over: 18 times.
REKEY_JITTER: Final = 1 / 3
REKEY_ATTEMPT_TIME: Final = 90.0
MAX_TIMER_HANDSHAKES: Final = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT)
# Packets that wait for keys, of one peer; the oldest goes first.
MAX_STAGED_PACKETS: Final = 128
# Packets that wait for a connection that takes no more, of one peer; the newest is refused.
MAX_QUEUED_PACKETS: Final = 256

# An initiator that only receives asks this early: a keepalive and one more try still fit before the end.
REKEY_AFTER_TIME_RECEIVING: Final = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
# All keys are forgotten this long after the last handshake.
FORGET_AFTER_TIME: Final = 3 * REJECT_AFTER_TIME

# The replay window: RFC 6479 with 8,192 positions, less the 64 of the word that is being reused there.
WINDOW: Final = 8192 - 64
# WireGuard's limits of the counter; the second keeps a counter plus the window from wrapping.
REKEY_AFTER_MESSAGES: Final = 1 << 60
REJECT_AFTER_MESSAGES: Final = (1 << 64) - WINDOW - 2
# aes-256-gcm, 16-byte blocks sealed under one key: with more, the bound on telling it from random grows past 2^-57.
REKEY_AFTER_BLOCKS: Final = 1 << 35
REJECT_AFTER_BLOCKS: Final = 1 << 36

assert DATAGRAM_BYTES <= MAX_DATAGRAM_BYTES < MAX_PACKET_BYTES
assert BACKOFF_FIRST < BACKOFF_MOST < FIRST_SENDER_HOLD
assert REKEY_AFTER_TIME < REKEY_AFTER_TIME_RECEIVING == 165 < REJECT_AFTER_TIME < FORGET_AFTER_TIME
assert REJECT_AFTER_MESSAGES == 2**64 - 8130
