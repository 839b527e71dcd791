"""What distinguishes the protocols over the one handshake engine: names, type words, suite and nonce layout.

Nothing here is negotiated. Both ends take their profile from their configuration; what differs between them is
mixed into the handshake by the prologue, so that two different profiles never share a key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunneld.proto.framing import Buffer
from tunneld.proto.noise import Aead

Transport = Literal["udp", "tcp"]
Mode = Literal["tun", "tap"]
Cipher = Literal["chacha20-poly1305", "aes-256-gcm"]


class MessageType(IntEnum):
    """The four messages, numbered as on WireGuard's wire."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE = 3
    DATA = 4


# The type word, bytes 0-3 of every message:
#   0     type: WireGuard's 1..4; of tunneld the same with the highest bit set, which WireGuard drops
#   1     parameters: bit 0 cipher, bit 1 mode, rest 0; always 0 in WireGuard
#   2-3   zero
TYPE_WORD: Final = struct.Struct("<BBH")
TUNNELD_TYPE: Final = 0x80

MODES: Final[tuple[Mode, ...]] = ("tun", "tap")
CIPHERS: Final[tuple[Cipher, ...]] = ("chacha20-poly1305", "aes-256-gcm")
_AEADS: Final[dict[Cipher, tuple[str, Aead]]] = {
    "chacha20-poly1305": ("ChaChaPoly", ChaCha20Poly1305),
    "aes-256-gcm": ("AESGCM", AESGCM),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """One protocol as both ends must have configured it.

    `settings` names what an operator can set differently at the two ends, and is visible on the wire.
    `words` are the type words of the messages that the profile has. A data message is sealed without associated
    data under the 12-byte nonce `nonce_prefix` + header[`nonce_start`:16], where the 16 bytes of header are
    type word | receiver's index, 4 bytes little-endian | counter, 8 bytes in `counter_order`.
    """

    settings: str
    noise_name: str
    prologue: bytes
    words: Mapping[MessageType, bytes] = field(hash=False)
    aead: Aead
    counter_order: Literal["little", "big"]
    nonce_prefix: bytes
    nonce_start: int


def _words(first: int, parameters: int) -> dict[MessageType, bytes]:
    return {kind: TYPE_WORD.pack(first | kind, parameters, 0) for kind in MessageType}


WIREGUARD: Final = Profile(
    settings="wireguard",
    noise_name="Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
    prologue=b"WireGuard v1 zx2c4 Jason@zx2c4.com",
    words=_words(0, 0),
    aead=ChaCha20Poly1305,
    counter_order="little",
    nonce_prefix=bytes(4),
    nonce_start=8,
)


def tunneld_profile(transport: Transport, mode: Mode, cipher: Cipher) -> Profile:
    """The profile of `tunneld` version 1; `transport` is that of the link the handshake runs on.

    A TCP peer's address cannot be forged, so there are no cookies and their type word is unknown.
    """
    noise_cipher, aead = _AEADS[cipher]
    words = _words(TUNNELD_TYPE, CIPHERS.index(cipher) | MODES.index(mode) << 1)
    if transport == "tcp":
        del words[MessageType.COOKIE]
    return Profile(
        settings=f"tunneld {mode} {cipher}",
        noise_name=f"Noise_IKpsk2_25519_{noise_cipher}_BLAKE2s",
        prologue=f"tunneld v1 {transport} {mode} {cipher}".encode(),
        words=words,
        aead=aead,
        counter_order="big",
        nonce_prefix=b"",
        nonce_start=4,
    )


def _all_settings() -> Iterator[tuple[bytes, tuple[MessageType, str]]]:
    profiles = [WIREGUARD, *(tunneld_profile("udp", mode, cipher) for mode in MODES for cipher in CIPHERS)]
    for profile in profiles:
        yield from ((word, (kind, profile.settings)) for kind, word in profile.words.items())


_SPOKEN: Final = dict(_all_settings())


def spoken_untrusted(message: Buffer) -> tuple[MessageType, str] | None:
    """What the type word says the sender speaks: the message and the `settings` of its profile; None for no word.

    Anybody can write a type word: good for a line to the operator, never for a choice. The transport is not in it.
    """
    return _SPOKEN.get(bytes(message[:4]))
