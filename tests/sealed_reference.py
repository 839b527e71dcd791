"""The sealed protocols, written anew from section 7 of docs/PROTOCOL.md alone: the second implementation.

It makes what an initiator and a responder send, from given keys and given random bytes. It receives nothing, keeps no
state and shares no line with tunneld: BLAKE2s is hashlib's, HChaCha20 is written out, and only X25519 and the AEADs
come from the same library. Names are those of the page.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

# --- 7.1.1


def HASH(x: bytes) -> bytes:
    return hashlib.blake2s(x).digest()


def MAC(key: bytes, x: bytes) -> bytes:
    return hashlib.blake2s(x, key=key, digest_size=16).digest()


def HMAC(key: bytes, x: bytes) -> bytes:
    return hmac.new(key, x, hashlib.blake2s).digest()


def KDF(n: int, key: bytes, x: bytes) -> list[bytes]:
    t0 = HMAC(key, x)
    t = [b""]
    for number in range(1, n + 1):
        t.append(HMAC(t0, t[-1] + bytes([number])))
    return t[1:]


def PUBLIC(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def DH(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def HCHACHA20(key: bytes, nonce: bytes) -> bytes:
    words = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in (columns + diagonals) * 10:
        for to, other, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            words[to] = (words[to] + words[other]) & 0xFFFFFFFF
            mixed = words[turned] ^ words[to]
            words[turned] = (mixed << bits | mixed >> 32 - bits) & 0xFFFFFFFF
    return struct.pack("<8I", *words[:4], *words[12:])


def XSEAL(key: bytes, nonce: bytes, ad: bytes, text: bytes) -> bytes:
    return ChaCha20Poly1305(HCHACHA20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], text, ad)


# --- 7.1.2


@dataclass(frozen=True)
class Profile:
    name: str
    prologue: bytes
    words: tuple[bytes, bytes, bytes, bytes]
    cipher: str

    @property
    def first_ck(self) -> bytes:
        return HASH(self.name.encode())

    @property
    def first_h(self) -> bytes:
        """`h` before `Spub_r`."""
        return HASH(self.first_ck + self.prologue)

    def SEAL(self, key: bytes, nonce: bytes, ad: bytes, text: bytes) -> bytes:
        aead = AESGCM if self.cipher == "aes-256-gcm" else ChaCha20Poly1305
        return aead(key).encrypt(nonce, text, ad)


def profile(said: str) -> Profile:
    """`wireguard`, or the words of tunneld's prologue from TRANSPORT on."""
    if said == "wireguard":
        words = tuple(bytes([kind, 0, 0, 0]) for kind in (1, 2, 3, 4))
        name = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
        return Profile(name, b"WireGuard v1 zx2c4 Jason@zx2c4.com", words, "chacha20-poly1305")
    _, mode, cipher = said.split()
    parameters = (cipher == "aes-256-gcm") | (mode == "tap") << 1
    words = tuple(bytes([kind, parameters, 0, 0]) for kind in (0x81, 0x82, 0x83, 0x84))
    name = f"Noise_IKpsk2_25519_{'AESGCM' if cipher == 'aes-256-gcm' else 'ChaChaPoly'}_BLAKE2s"
    return Profile(name, f"tunneld v1 {said}".encode(), words, cipher)


# --- 7.1.4 to 7.1.6


@dataclass(frozen=True)
class Given:
    """What a handshake is made of."""

    profile: Profile
    Spriv_i: bytes
    Epriv_i: bytes
    I_i: int
    Spriv_r: bytes
    Epriv_r: bytes
    I_r: int
    Q: bytes
    timestamp: bytes


@dataclass(frozen=True)
class Initiation:
    message: bytes
    ck: bytes
    h: bytes


@dataclass(frozen=True)
class Response:
    message: bytes
    ck: bytes
    h: bytes
    K1: bytes
    K2: bytes


def initiation(given: Given, cookie: bytes = b"") -> Initiation:
    """As the initiator makes it."""
    seal, Spub_r = given.profile.SEAL, PUBLIC(given.Spriv_r)
    ck, h = given.profile.first_ck, HASH(given.profile.first_h + Spub_r)
    ephemeral = PUBLIC(given.Epriv_i)
    h = HASH(h + ephemeral)
    (ck,) = KDF(1, ck, ephemeral)
    ck, k = KDF(2, ck, DH(given.Epriv_i, Spub_r))
    static = seal(k, bytes(12), h, PUBLIC(given.Spriv_i))
    h = HASH(h + static)
    ck, k = KDF(2, ck, DH(given.Spriv_i, Spub_r))
    timestamp = seal(k, bytes(12), h, given.timestamp)
    h = HASH(h + timestamp)
    body = given.profile.words[0] + struct.pack("<I", given.I_i) + ephemeral + static + timestamp
    return Initiation(with_macs(body, Spub_r, cookie), ck, h)


def response(given: Given, first: Initiation) -> Response:
    """As the responder makes it."""
    ck, h = first.ck, first.h
    ephemeral = PUBLIC(given.Epriv_r)
    h = HASH(h + ephemeral)
    (ck,) = KDF(1, ck, ephemeral)
    (ck,) = KDF(1, ck, DH(given.Epriv_r, PUBLIC(given.Epriv_i)))
    (ck,) = KDF(1, ck, DH(given.Epriv_r, PUBLIC(given.Spriv_i)))
    ck, t, k = KDF(3, ck, given.Q)
    h = HASH(h + t)
    empty = given.profile.SEAL(k, bytes(12), h, b"")
    h = HASH(h + empty)
    body = given.profile.words[1] + struct.pack("<II", given.I_r, given.I_i) + ephemeral + empty
    K1, K2 = KDF(2, ck, b"")
    return Response(with_macs(body, PUBLIC(given.Spriv_i), b""), ck, h, K1, K2)


# --- 7.1.7


def with_macs(body: bytes, Spub_to: bytes, cookie: bytes) -> bytes:
    body += MAC(HASH(b"mac1----" + Spub_to), body)
    return body + (MAC(cookie, body) if cookie else bytes(16))


def cookie_message(profile: Profile, answered: bytes, *, Spub_us: bytes, cookie: bytes, nonce: bytes) -> bytes:
    mac1 = answered[-32:-16]
    sealed = XSEAL(HASH(b"cookie--" + Spub_us), nonce, mac1, cookie)
    return profile.words[2] + answered[4:8] + nonce + sealed


# --- 7.1.9


def timestamp(seconds: int, nanoseconds: int) -> bytes:
    return struct.pack(">QI", 2**62 + 10 + seconds, nanoseconds - nanoseconds % 2**24)


# --- 7.2


def data(profile: Profile, key: bytes, receiver: int, counter: int, plaintext: bytes) -> bytes:
    if profile.words[3][0] == 4:
        header = profile.words[3] + struct.pack("<IQ", receiver, counter)
        nonce = bytes(4) + struct.pack("<Q", counter)
    else:
        header = profile.words[3] + struct.pack("<I", receiver) + struct.pack(">Q", counter)
        nonce = header[4:16]
    return header + profile.SEAL(key, nonce, b"", plaintext)


# --- 7.3 and 7.4


def padded(plaintext: bytes) -> bytes:
    return plaintext + bytes(-len(plaintext) % 16)


def packets(*packets: bytes) -> bytes:
    return padded(b"\1" + b"".join(struct.pack(">H", len(packet)) + packet for packet in packets))


def control(*messages: tuple[int, bytes]) -> bytes:
    return padded(b"\4" + b"".join(struct.pack(">HH", kind, len(value)) + value for kind, value in messages))
