"""The two MACs at the end of a handshake message, and the cookies that the second one is made of.

Theory of operation. MAC1 is keyed by the receiver's public key: whoever does not know that key is refused before any
curve operation. Under load that is not enough, as an attacker may know it: then the receiver answers with a cookie,
a MAC of the sender's address under a secret that only the receiver has. The sender's next message carries a MAC2
keyed by that cookie, which proves that it receives at its address, and so can be rate limited by it. The receiver
keeps nothing per sender. The cookie is sealed under a key from the receiver's public key, with the MAC1 of the
message it answers as associated data, so that only somebody on the path can forge one.

Keyed BLAKE2s-128 comes from hashlib, as `cryptography` has none; it protects against load, never data.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.noise import KEY_BYTES, blake2s
from tunneld.proto.profile import MessageType, Profile
from tunneld.proto.wire import COOKIE, MAC_BYTES, SENDER, expect_untrusted

COOKIE_NONCE_BYTES: Final = 24

# Seconds. The sender stops using a cookie earlier than its secret can be renewed, by the time that messages take.
COOKIE_SECRET_MAX_AGE: Final = 120.0
COOKIE_SECRET_LATENCY: Final = 5.0
COOKIE_MAX_AGE: Final = COOKIE_SECRET_MAX_AGE - COOKIE_SECRET_LATENCY

_LABEL_MAC1: Final = b"mac1----"
_LABEL_COOKIE: Final = b"cookie--"
_NO_MAC: Final = bytes(MAC_BYTES)
_COUNT_BYTES: Final = 8

# ChaCha20's state is 16 words: 4 of constants, 8 of the key, 4 of counter and nonce.
_CONSTANTS: Final = struct.unpack("<4I", b"expand 32-byte k")
_WORDS: Final = struct.Struct("<16I")


def mac(key: bytes, *parts: Buffer) -> bytes:
    """MAC: the 16 bytes of keyed BLAKE2s-128 over the parts in a row."""
    code = hashlib.blake2s(key=key, digest_size=MAC_BYTES)
    for part in parts:
        code.update(part)
    return code.digest()


def mac1_key(public: bytes) -> bytes:
    """What keys MAC1 of the messages to the owner of `public`."""
    return blake2s(_LABEL_MAC1, public)


def check_mac1_untrusted(key: bytes, message: Buffer) -> None:
    """Raises BadPacket(BAD_MAC1) unless the initiation or response `message` ends in MAC1 under `key`, and MAC2."""
    before, mac1 = message[: -2 * MAC_BYTES], message[-2 * MAC_BYTES : -MAC_BYTES]
    if not hmac.compare_digest(mac(key, before), mac1):
        raise BadPacket(Reason.BAD_MAC1)


class CookieChecker:
    """The receiver's side: whose MAC2 is right, and cookies for those whose is not.

    `public` is our public key; `random` gives that many bytes. A `source` is the sender's address and port as
    bytes; every address must have one form of it only, so 4 bytes for an IPv4 address even if it came mapped.
    """

    def __init__(self, profile: Profile, public: bytes, random: Callable[[int], bytes]) -> None:
        self._word = profile.words[MessageType.COOKIE]
        self._key = blake2s(_LABEL_COOKIE, public)
        self._random = random
        self._secret = b""
        self._secret_end = float("-inf")
        self._sealing: ChaCha20Poly1305
        self._nonce_start = b""
        self._nonce_count = 0
        self._asked: tuple[bytes | None, bytes] = (None, b"")

    def proves_source_untrusted(self, message: Buffer, source: bytes, now: float) -> bool:
        """Whether MAC2 of `message` is keyed by a cookie that we sent to `source` under the secret of `now`."""
        if now >= self._secret_end:
            return False
        expected = mac(self._cookie(source), message[:-MAC_BYTES])
        return hmac.compare_digest(expected, message[-MAC_BYTES:])

    def create_reply_untrusted(self, message: Buffer, source: bytes, now: float) -> bytes:
        """The cookie message for the sender of `message` at `source`. Call after `check_mac1_untrusted` only."""
        if now >= self._secret_end:
            self._renew(now)
        nonce = self._nonce_start + self._nonce_count.to_bytes(_COUNT_BYTES)
        self._nonce_count = (self._nonce_count + 1) % (1 << 8 * _COUNT_BYTES)
        mac1 = bytes(message[-2 * MAC_BYTES : -MAC_BYTES])
        sealed = self._sealing.encrypt(_tail(nonce), self._cookie(source), mac1)
        (sender,) = SENDER.unpack_from(message)
        return COOKIE.pack(self._word, sender, nonce, sealed)

    def _renew(self, now: float) -> None:
        self._secret = self._random(KEY_BYTES)
        self._secret_end = now + COOKIE_SECRET_MAX_AGE
        self._asked = (None, b"")
        # The subkey of XChaCha20, which costs more than all the rest, depends on the first 16 bytes alone: these stay
        # as long as the secret does, and the others count, so that no nonce comes twice.
        nonce = self._random(COOKIE_NONCE_BYTES)
        self._sealing = _xchacha20_poly1305(self._key, nonce)
        self._nonce_start, self._nonce_count = nonce[:-_COUNT_BYTES], int.from_bytes(nonce[-_COUNT_BYTES:])

    def _cookie(self, source: bytes) -> bytes:
        """The cookie of `source`. The last one is kept: who has no right MAC2 is asked about twice, then answered."""
        if self._asked[0] != source:
            self._asked = source, mac(self._secret, source)
        return self._asked[1]


class CookieJar:
    """The sender's side, one for each peer: writes the MACs, and keeps the cookie that the peer sent.

    `public` is the peer's public key.
    """

    def __init__(self, public: bytes) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = blake2s(_LABEL_COOKIE, public)
        self._last_mac1: bytes | None = None
        self._cookie = b""
        self._cookie_end = float("-inf")

    def macs(self, message: bytes, now: float) -> tuple[bytes, bytes]:
        """MAC1 and MAC2 of `message`, which ends before them; MAC2 is zeros without a fresh cookie."""
        mac1 = mac(self._mac1_key, message)
        self._last_mac1 = mac1
        return mac1, mac(self._cookie, message, mac1) if now < self._cookie_end else _NO_MAC

    def consume_reply_untrusted(self, profile: Profile, reply: Buffer, now: float) -> None:
        """Keep the cookie of a reply to the last message; it serves from the next one on, for 115 s.

        Raises BadPacket, and is then as before: UNEXPECTED_ANSWER if no message waits for a cookie, BAD_COOKIE if
        the reply is not to the last one. The caller finds the jar by the receiver's index in the reply. A
        cookie is no reason to send at once, nor to send elsewhere.
        """
        expect_untrusted(reply, profile, MessageType.COOKIE)
        if self._last_mac1 is None:
            raise BadPacket(Reason.UNEXPECTED_ANSWER)
        _, _, nonce, sealed = COOKIE.unpack(reply)
        try:
            cookie = _xchacha20_poly1305(self._cookie_key, nonce).decrypt(_tail(nonce), sealed, self._last_mac1)
        except InvalidTag:
            raise BadPacket(Reason.BAD_COOKIE) from None
        self._cookie = cookie
        self._cookie_end = now + COOKIE_MAX_AGE
        self._last_mac1 = None


def _xchacha20_poly1305(key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hchacha20(key, nonce[:16]))


def _tail(nonce: bytes) -> bytes:
    return bytes(4) + nonce[16:]


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The 32-byte subkey of 32 bytes of key and 16 of nonce, draft-irtf-cfrg-xchacha section 2.2.

    HChaCha20 leaves out the last step of ChaCha20's block function, which adds the first state to the last. The block
    is what zeros encrypt to; taking that sum back gives the words wanted, as their first state is public.
    """
    block = _WORDS.unpack(Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(_WORDS.size)))
    first = (*_CONSTANTS, *struct.unpack("<4I", nonce))
    last = (*block[:4], *block[12:])
    return struct.pack("<8I", *((word - start) & 0xFFFFFFFF for word, start in zip(last, first, strict=True)))
