import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.wire import COOKIE, DATA_HEADER, INITIATION, RESPONSE, SENDER, classify_untrusted, expect_untrusted

TCP = tunneld_profile("tcp", "tap", "aes-256-gcm")
PROFILES = [WIREGUARD, TCP, *(tunneld_profile("udp", mode, cipher) for mode in MODES for cipher in CIPHERS)]
LENGTHS = {MessageType.INITIATION: 148, MessageType.RESPONSE: 92, MessageType.COOKIE: 64, MessageType.DATA: 32}


def reason(message, profile):
    with pytest.raises(BadPacket) as caught:
        classify_untrusted(message, profile)
    return caught.value.reason


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.prologue.decode())
def test_every_message_of_the_profile_is_known_by_word_and_exact_length(profile):
    for kind, word in profile.words.items():
        assert classify_untrusted(memoryview(word.ljust(LENGTHS[kind], b"x")), profile) is kind
        assert reason(word.ljust(LENGTHS[kind] - 1, b"x"), profile) is Reason.UNKNOWN_MESSAGE
        longer = word.ljust(LENGTHS[kind] + 1, b"x")
        if kind is MessageType.DATA:
            assert classify_untrusted(longer, profile) is kind
        else:
            assert reason(longer, profile) is Reason.UNKNOWN_MESSAGE


def test_messages_of_another_profile_are_told_apart_from_noise():
    initiation = tunneld_profile("udp", "tun", "aes-256-gcm").words[MessageType.INITIATION].ljust(148, b"x")
    assert reason(initiation, tunneld_profile("udp", "tap", "aes-256-gcm")) is Reason.OTHER_SETTINGS
    assert reason(initiation, tunneld_profile("udp", "tun", "chacha20-poly1305")) is Reason.OTHER_SETTINGS
    assert reason(initiation, WIREGUARD) is Reason.OTHER_SETTINGS
    assert reason(initiation[:147], WIREGUARD) is Reason.UNKNOWN_MESSAGE


def test_a_cookie_on_tcp_is_nothing():
    cookie = tunneld_profile("udp", "tap", "aes-256-gcm").words[MessageType.COOKIE].ljust(64, b"x")
    assert reason(cookie, TCP) is Reason.UNKNOWN_MESSAGE


def test_another_message_than_expected_is_refused():
    response = WIREGUARD.words[MessageType.RESPONSE].ljust(92, b"x")
    expect_untrusted(response, WIREGUARD, MessageType.RESPONSE)
    with pytest.raises(BadPacket):
        expect_untrusted(response, WIREGUARD, MessageType.INITIATION)


def test_the_layouts_are_little_endian_and_without_gaps():
    word, noise, mac = b"\x01\0\0\0", b"n" * 108, b"m" * 16
    assert INITIATION.pack(word, 0x01020304, noise, mac, mac) == word + b"\x04\x03\x02\x01" + noise + mac + mac
    assert SENDER.unpack_from(INITIATION.pack(word, 7, noise, mac, mac)) == (7,)
    assert RESPONSE.pack(word, 1, 2, b"n" * 48, mac, mac) == word + struct.pack("<II", 1, 2) + b"n" * 48 + mac + mac
    assert COOKIE.pack(word, 3, b"n" * 24, b"c" * 32) == word + b"\x03\0\0\0" + b"n" * 24 + b"c" * 32
    assert DATA_HEADER.pack(word, 4, b"c" * 8) == word + b"\x04\0\0\0" + b"c" * 8


@given(st.binary(max_size=200), st.sampled_from(PROFILES))
def test_any_bytes_are_a_message_or_a_bad_packet(message, profile):
    try:
        kind = classify_untrusted(message, profile)
    except BadPacket:
        return
    assert message[:4] == profile.words[kind]


@given(st.sampled_from(PROFILES), st.sampled_from(PROFILES), st.sampled_from(MessageType), st.integers(0, 200))
def test_any_word_of_any_profile_is_a_message_or_a_bad_packet(spoken, profile, kind, length):
    message = spoken.words.get(kind, b"\x81\0\0\0").ljust(length, b"x")
    try:
        found = classify_untrusted(message, profile)
    except BadPacket:
        return
    assert (found, spoken.settings) == (kind, profile.settings)
