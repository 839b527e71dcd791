from dataclasses import FrozenInstanceError

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, MessageType, spoken_untrusted, tunneld_profile

ALL = [WIREGUARD, *(tunneld_profile(t, m, c) for t in ("udp", "tcp") for m in MODES for c in CIPHERS)]


def test_wireguard_is_wireguard():
    assert WIREGUARD.noise_name == "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
    assert WIREGUARD.prologue == b"WireGuard v1 zx2c4 Jason@zx2c4.com"
    assert list(WIREGUARD.words.values()) == [b"\x01\0\0\0", b"\x02\0\0\0", b"\x03\0\0\0", b"\x04\0\0\0"]
    assert WIREGUARD.aead is ChaCha20Poly1305


@pytest.mark.parametrize(
    ("mode", "cipher", "parameters"),
    [
        ("tun", "chacha20-poly1305", 0),
        ("tun", "aes-256-gcm", 1),
        ("tap", "chacha20-poly1305", 2),
        ("tap", "aes-256-gcm", 3),
    ],
)
def test_tunneld_says_mode_and_cipher_in_the_second_byte(mode, cipher, parameters):
    words = tunneld_profile("udp", mode, cipher).words
    assert list(words.values()) == [bytes([kind, parameters, 0, 0]) for kind in (0x81, 0x82, 0x83, 0x84)]


def test_the_prologue_of_tunneld_is_ascii_with_single_blanks():
    profile = tunneld_profile("udp", "tun", "aes-256-gcm")
    assert profile.prologue == b"tunneld v1 udp tun aes-256-gcm"
    assert profile.noise_name == "Noise_IKpsk2_25519_AESGCM_BLAKE2s"
    assert profile.aead is AESGCM


def test_tcp_has_no_cookies():
    assert MessageType.COOKIE not in tunneld_profile("tcp", "tun", "aes-256-gcm").words


def test_no_two_profiles_start_a_handshake_alike():
    assert len({(profile.noise_name, profile.prologue) for profile in ALL}) == len(ALL) == 9


def test_nonces_are_twelve_bytes_of_the_header():
    header = bytes(range(16))
    nonces = {profile.nonce_prefix + header[profile.nonce_start :] for profile in ALL}
    assert nonces == {bytes(4) + bytes(range(8, 16)), bytes(range(4, 16))}


def test_what_a_stranger_speaks_is_told_from_the_type_word():
    for profile in ALL:
        for kind, word in profile.words.items():
            assert spoken_untrusted(word + b"rest") == (kind, profile.settings)


@pytest.mark.parametrize(
    "message", [b"", b"\x01\0\0", b"\x05\0\0\0", b"\x81\x04\0\0", b"\x81\0\0\x01", b"\x01\x01\0\0"]
)
def test_what_is_no_type_word_says_nothing(message):
    assert spoken_untrusted(memoryview(message)) is None


def test_a_profile_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        WIREGUARD.prologue = b""
