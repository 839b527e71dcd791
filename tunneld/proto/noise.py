"""The Noise Protocol Framework, revision 34: the patterns IK and IKpsk2 over 25519 and BLAKE2s.

Objects, functions and tokens have the names of the specification; section numbers in comments are its. Message
layout, indices and MACs are not here: see handshake.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

Aead = type[ChaCha20Poly1305] | type[AESGCM]

KEY_BYTES: Final = 32
HASH_BYTES: Final = 32
TAG_BYTES: Final = 16

# Section 12: ChaChaPoly's nonce is 32 bits of zeros and a little-endian 64-bit n, AESGCM's is big-endian.
_CIPHERS: Final[dict[str, tuple[Aead, struct.Struct]]] = {
    "ChaChaPoly": (ChaCha20Poly1305, struct.Struct("<4xQ")),
    "AESGCM": (AESGCM, struct.Struct(">4xQ")),
}

# Section 7.5 and 9.4. The pre-message of both is the responder's static key.
_PATTERNS: Final = {
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
    "IKpsk2": (("e", "es", "s", "ss"), ("e", "ee", "se", "psk")),
}


class UnusableKeyError(Exception):
    """A public key of low order: every secret shared with it would be all zeros, known to anybody."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key of X25519 and the 32 bytes of its public key."""

    private: X25519PrivateKey = field(repr=False)
    public: bytes


def key_pair(private: bytes | bytearray) -> KeyPair:
    """The key pair of 32 private bytes, copied; X25519 clamps them. Raises ValueError for another length."""
    key = X25519PrivateKey.from_private_bytes(private)
    return KeyPair(key, key.public_key().public_bytes_raw())


def dh(pair: KeyPair, public: bytes) -> bytes:
    """The 32 bytes that `pair` and `public` share. Raises UnusableKeyError."""
    try:
        return pair.private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # an all-zero result; RFC 7748 section 6.1 leaves the check to us, OpenSSL makes it
        raise UnusableKeyError from error


def blake2s(*parts: bytes) -> bytes:
    """HASH: the 32 bytes of BLAKE2s over the parts in a row."""
    digest = hashes.Hash(hashes.BLAKE2s(HASH_BYTES))
    for part in parts:
        digest.update(part)
    return digest.finalize()


def hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """HKDF of section 4.3, over HMAC-BLAKE2s: `outputs` keys of 32 bytes."""
    secret = _hmac(chaining_key, material)
    keys = [b""]
    for number in range(1, outputs + 1):
        keys.append(_hmac(secret, keys[-1] + bytes([number])))
    return keys[1:]


def _hmac(key: bytes, message: bytes) -> bytes:
    code = hmac.HMAC(key, hashes.BLAKE2s(HASH_BYTES))
    code.update(message)
    return code.finalize()


class CipherState:
    """Section 5.1: one key and the nonce of its next message. Without a key it passes text through."""

    def __init__(self, cipher: str, key: bytes = b"") -> None:
        aead, self._nonce_bytes = _CIPHERS[cipher]
        self._aead = aead(key) if key else None
        self._nonce = 0

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        if self._aead is None:
            return plaintext
        ciphertext = self._aead.encrypt(self._nonce_bytes.pack(self._nonce), plaintext, ad)
        self._nonce += 1
        return ciphertext

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """Raises InvalidTag; the nonce then stays."""
        if self._aead is None:
            return ciphertext
        plaintext = self._aead.decrypt(self._nonce_bytes.pack(self._nonce), ciphertext, ad)
        self._nonce += 1
        return plaintext


class SymmetricState:
    """Section 5.2: the chaining key `ck`, the handshake hash `h`, and the cipher keyed so far."""

    def __init__(self, protocol_name: str) -> None:
        name = protocol_name.encode()
        self.handshake_hash = name.ljust(HASH_BYTES, b"\0") if len(name) <= HASH_BYTES else blake2s(name)
        self._chaining_key = self.handshake_hash
        self._cipher = protocol_name.split("_")[3]
        self._cipher_state = CipherState(self._cipher)

    def copy(self) -> SymmetricState:
        twin = copy(self)
        twin._cipher_state = copy(self._cipher_state)
        return twin

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = hkdf(self._chaining_key, material, 2)
        self._cipher_state = CipherState(self._cipher, key)

    def mix_hash(self, data: bytes) -> None:
        self.handshake_hash = blake2s(self.handshake_hash, data)

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, data, key = hkdf(self._chaining_key, material, 3)
        self.mix_hash(data)
        self._cipher_state = CipherState(self._cipher, key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher_state.encrypt_with_ad(self.handshake_hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher_state.decrypt_with_ad(self.handshake_hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The keys of the two CipherStates: the initiator sends with the first. Good once: only `h` stays."""
        first, second = hkdf(self._chaining_key, b"", 2)
        del self._chaining_key, self._cipher_state
        return first, second


class HandshakeState:
    """Section 5.3: one handshake of two messages, written and read in turn.

    `s` is our static key pair, `rs` the peer's static public key: the initiator gives it, the responder finds it set
    once it has read the first message, and may set `psk` until it writes the second. `random` gives that many
    bytes. A message that cannot be read changes nothing: the right one may follow.
    """

    def __init__(
        self,
        protocol_name: str,
        *,
        initiator: bool,
        prologue: bytes,
        s: KeyPair,
        random: Callable[[int], bytes],
        rs: bytes = b"",
        psk: bytes = b"",
    ) -> None:
        pattern = protocol_name.split("_")[1]
        self.rs = rs
        self.psk = psk
        self._initiator = initiator
        self._s = s
        self._random = random
        self._e: KeyPair | None = None
        self._re = b""
        self._messages = list(_PATTERNS[pattern])
        self._has_psk = "psk" in pattern
        self._symmetric = SymmetricState(protocol_name)
        self._symmetric.mix_hash(prologue)
        self._symmetric.mix_hash(rs if initiator else s.public)

    @property
    def handshake_hash(self) -> bytes:
        return self._symmetric.handshake_hash

    @property
    def finished(self) -> bool:
        """Whether both messages are through."""
        return not self._messages

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys of a finished handshake: the initiator sends with the first. Good once.

        Section 5: nothing stays but the hash. The rest would give the keys to whoever finds it, as long as somebody
        holds this object, and so outlive the session.
        """
        assert self.finished
        self._e = None
        self.psk = b""
        return self._symmetric.split()

    def write_message(self, payload: bytes) -> bytes:
        """The next message. Raises UnusableKeyError if the peer's key is unusable; the handshake is then over."""
        parts = []
        for token in self._messages.pop(0):
            if token == "e":
                self._e = key_pair(self._random(KEY_BYTES))
                parts.append(self._e.public)
                self._mix_ephemeral(self._symmetric, self._e.public)
            elif token == "s":
                parts.append(self._symmetric.encrypt_and_hash(self._s.public))
            elif token == "psk":
                self._symmetric.mix_key_and_hash(self.psk)
            else:
                self._symmetric.mix_key(self._dh(token, self._re, self.rs))
        parts.append(self._symmetric.encrypt_and_hash(payload))
        return b"".join(parts)

    def read_message_untrusted(self, message: bytes) -> bytes:
        """The payload of the peer's next message. Raises InvalidTag and UnusableKeyError, and is then as before."""
        symmetric, re, rs = self._symmetric.copy(), self._re, self.rs
        at = 0
        for token in self._messages[0]:
            if token == "e":
                re = message[:KEY_BYTES]
                at = KEY_BYTES
                self._mix_ephemeral(symmetric, re)
            elif token == "s":
                end = at + KEY_BYTES + TAG_BYTES
                rs = symmetric.decrypt_and_hash(message[at:end])
                at = end
            elif token == "psk":
                symmetric.mix_key_and_hash(self.psk)
            else:
                symmetric.mix_key(self._dh(token, re, rs))
        payload = symmetric.decrypt_and_hash(message[at:])
        del self._messages[0]
        self._symmetric, self._re, self.rs = symmetric, re, rs
        return payload

    def _mix_ephemeral(self, symmetric: SymmetricState, public: bytes) -> None:
        symmetric.mix_hash(public)
        if self._has_psk:  # section 9.2: else a psk alone would key messages of different handshakes alike
            symmetric.mix_key(public)

    def _dh(self, token: str, re: bytes, rs: bytes) -> bytes:
        """DH of "es" and the like: the first letter is the initiator's key, the second the responder's."""
        ours, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        pair = self._s if ours == "s" else self._e
        assert pair is not None, "e comes before every DH that needs it"
        return dh(pair, rs if theirs == "s" else re)
