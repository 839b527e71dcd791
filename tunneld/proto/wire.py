"""The layouts of the four messages, and which of them a datagram is.

Integers are little-endian, except for the counter of `tunneld`'s data messages.
"""

from __future__ import annotations

import struct
from typing import Final

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.noise import TAG_BYTES
from tunneld.proto.profile import MessageType, Profile, spoken_untrusted

# Initiation, 148 bytes:
#   type word   4
#   sender      4   the initiator's index for the session
#   noise     108   ephemeral 32 | static 32 + 16 | timestamp 12 + 16
#   mac1       16   over all before it
#   mac2       16   over all before it, or zeros
INITIATION: Final = struct.Struct("<4sI108s16s16s")

# Response, 92 bytes:
#   type word   4
#   sender      4   the responder's index for the session
#   receiver    4   the initiator's, from the initiation
#   noise      48   ephemeral 32 | empty 0 + 16
#   mac1       16
#   mac2       16
RESPONSE: Final = struct.Struct("<4sII48s16s16s")

# Cookie, 64 bytes:
#   type word   4
#   receiver    4   the sender's index in the message that is answered
#   nonce      24
#   cookie     32   16 + 16, sealed under the nonce with the answered message's mac1 as associated data
COOKIE: Final = struct.Struct("<4sI24s32s")

# Data, 16 bytes of header, then ciphertext and tag; 32 bytes are a keepalive:
#   type word   4
#   receiver    4
#   counter     8   see Profile.counter_order
DATA_HEADER: Final = struct.Struct("<4sI8s")
LEAST_DATA_BYTES: Final = DATA_HEADER.size + TAG_BYTES

# Before its two MACs, every handshake message begins: type word | sender.
SENDER: Final = struct.Struct("<4xI")
MAC_BYTES: Final = 16

LENGTHS: Final = {
    MessageType.INITIATION: INITIATION.size,
    MessageType.RESPONSE: RESPONSE.size,
    MessageType.COOKIE: COOKIE.size,
}

assert (*LENGTHS.values(), LEAST_DATA_BYTES) == (148, 92, 64, 32)


def classify_untrusted(message: Buffer, profile: Profile) -> MessageType:
    """Which of the profile's messages this claims to be, by its exact length and type word.

    Raises BadPacket: OTHER_SETTINGS for a message of another profile, of which `spoken_untrusted` tells the
    settings, and UNKNOWN_MESSAGE for anything else.
    """
    spoken = spoken_untrusted(message)
    if spoken is None:
        raise BadPacket(Reason.UNKNOWN_MESSAGE)
    kind, settings = spoken
    exact = LENGTHS.get(kind)
    if len(message) < LEAST_DATA_BYTES or (exact is not None and len(message) != exact):
        raise BadPacket(Reason.UNKNOWN_MESSAGE)
    if settings != profile.settings:
        raise BadPacket(Reason.OTHER_SETTINGS)
    if kind not in profile.words:
        raise BadPacket(Reason.UNKNOWN_MESSAGE)
    return kind


def expect_untrusted(message: Buffer, profile: Profile, kind: MessageType) -> None:
    """Raises BadPacket unless `message` claims to be a `kind` of the profile."""
    if classify_untrusted(message, profile) is not kind:
        raise BadPacket(Reason.UNKNOWN_MESSAGE)
