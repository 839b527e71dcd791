import hashlib

import pytest

from tests.proto.keys import flips, numbers
from tunneld.proto.cookie import (
    CookieChecker,
    CookieJar,
    _tail,
    _xchacha20_poly1305,
    check_mac1_untrusted,
    hchacha20,
    mac,
    mac1_key,
)
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.wire import INITIATION

PUBLIC = numbers(7)(32)
SOURCE = bytes([192, 0, 2, 1]) + (4000).to_bytes(2)
OTHERS = [bytes([192, 0, 2, 2]) + (4000).to_bytes(2), bytes([192, 0, 2, 1]) + (4001).to_bytes(2), b""]
PROFILES = [WIREGUARD, tunneld_profile("udp", "tap", "aes-256-gcm")]


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.settings)
def profile(request):
    return request.param


@pytest.fixture
def checker(profile):
    return CookieChecker(profile, PUBLIC, numbers(1))


@pytest.fixture
def jar():
    return CookieJar(PUBLIC)


def message(profile, jar, now, seed=0):
    """An initiation with noise where the Noise message goes, from a sender with index 0x1234."""
    zeros = bytes(16)
    body = INITIATION.pack(profile.words[MessageType.INITIATION], 0x1234, numbers(seed)(108), zeros, zeros)[:-32]
    return body + b"".join(jar.macs(body, now))


def refusal(jar, profile, reply, now):
    with pytest.raises(BadPacket) as caught:
        jar.consume_reply_untrusted(profile, reply, now)
    return caught.value.reason


def test_mac1_is_keyed_by_the_receivers_public_key(profile, jar):
    sent = message(profile, jar, 0.0)
    key = hashlib.blake2s(b"mac1----" + PUBLIC).digest()
    assert sent[116:132] == hashlib.blake2s(sent[:116], key=key, digest_size=16).digest()
    assert sent[132:] == bytes(16)
    check_mac1_untrusted(mac1_key(PUBLIC), memoryview(sent))
    with pytest.raises(BadPacket) as caught:
        check_mac1_untrusted(mac1_key(bytes(32)), sent)
    assert caught.value.reason is Reason.BAD_MAC1


def test_every_bit_before_mac2_counts_in_mac1(profile, jar):
    sent = message(profile, jar, 0.0)
    for bad in flips(sent, 0, 132):
        with pytest.raises(BadPacket):
            check_mac1_untrusted(mac1_key(PUBLIC), bad)


def test_a_cookie_makes_the_next_message_prove_its_source(profile, checker, jar):
    first = message(profile, jar, 0.0)
    assert not checker.proves_source_untrusted(first, SOURCE, 0.0)
    reply = checker.create_reply_untrusted(memoryview(first), SOURCE, 0.0)
    assert len(reply) == 64 < len(first)
    assert reply[:8] == profile.words[MessageType.COOKIE] + first[4:8]
    jar.consume_reply_untrusted(profile, reply, 0.0)
    second = message(profile, jar, 5.0, seed=1)
    assert checker.proves_source_untrusted(memoryview(second), SOURCE, 5.0)
    for bad in flips(second, 0, 148):
        assert not checker.proves_source_untrusted(bad, SOURCE, 5.0)


@pytest.mark.parametrize("other", OTHERS)
def test_a_cookie_is_worth_nothing_from_another_address_or_port(profile, checker, jar, other):
    jar.consume_reply_untrusted(profile, checker.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0), 0)
    assert not checker.proves_source_untrusted(message(profile, jar, 5), other, 5)
    jar.consume_reply_untrusted(profile, checker.create_reply_untrusted(message(profile, jar, 6), other, 6), 6)
    assert not checker.proves_source_untrusted(message(profile, jar, 7), SOURCE, 7)


def test_a_cookie_is_worth_nothing_once_its_secret_is_120_s_old(profile, checker, jar):
    jar.consume_reply_untrusted(profile, checker.create_reply_untrusted(message(profile, jar, 10), SOURCE, 10), 20)
    sent = message(profile, jar, 100)
    assert checker.proves_source_untrusted(sent, SOURCE, 129.9)
    assert not checker.proves_source_untrusted(sent, SOURCE, 130)
    checker.create_reply_untrusted(sent, OTHERS[0], 130)
    assert not checker.proves_source_untrusted(sent, SOURCE, 130)


def test_a_cookie_of_a_secret_to_come_or_of_another_receiver_is_worth_nothing(profile, jar):
    later, now, other = (CookieChecker(profile, PUBLIC, numbers(seed)) for seed in (1, 1, 2))
    for one in (later, now, other):
        one.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0)
    for one in (later, other):
        reply = one.create_reply_untrusted(message(profile, jar, 121), SOURCE, 121 if one is later else 0)
        jar.consume_reply_untrusted(profile, reply, 121)
        sent = message(profile, jar, 122)
        assert one.proves_source_untrusted(sent, SOURCE, 122 if one is later else 1)
        assert not now.proves_source_untrusted(sent, SOURCE, 1)


def test_the_sender_uses_a_cookie_for_115_s(profile, checker, jar):
    jar.consume_reply_untrusted(profile, checker.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0), 0)
    assert message(profile, jar, 114.9)[-16:] != bytes(16)
    assert message(profile, jar, 115)[-16:] == bytes(16)


def test_a_reply_that_was_tampered_with_is_refused_and_the_true_one_is_still_taken(profile, checker, jar):
    reply = checker.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0)
    for bad in flips(reply, 8, 64):
        assert refusal(jar, profile, bad, 0) is Reason.BAD_COOKIE
    jar.consume_reply_untrusted(profile, reply, 0)
    assert checker.proves_source_untrusted(message(profile, jar, 1), SOURCE, 1)


def test_a_reply_to_an_older_message_is_refused(profile, checker, jar):
    old = checker.create_reply_untrusted(message(profile, jar, 0, seed=1), SOURCE, 0)
    message(profile, jar, 5, seed=2)
    assert refusal(jar, profile, old, 5) is Reason.BAD_COOKIE
    assert message(profile, jar, 6)[-16:] == bytes(16)


def test_one_message_is_good_for_one_cookie(profile, checker, jar):
    assert refusal(jar, profile, checker.create_reply_untrusted(bytes(148), SOURCE, 0), 0) is Reason.UNEXPECTED_ANSWER
    reply = checker.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0)
    jar.consume_reply_untrusted(profile, reply, 0)
    assert refusal(jar, profile, reply, 0) is Reason.UNEXPECTED_ANSWER


def test_what_is_no_cookie_message_is_refused(profile, checker, jar):
    reply = checker.create_reply_untrusted(message(profile, jar, 0), SOURCE, 0)
    response = profile.words[MessageType.RESPONSE].ljust(92, b"\0")
    for bad in (reply[:-1], reply + b"\0", b"", response):
        assert refusal(jar, profile, bad, 0) is Reason.UNKNOWN_MESSAGE


def test_every_reply_has_a_nonce_of_its_own(profile, checker, jar):
    sent = message(profile, jar, 0)
    replies = [checker.create_reply_untrusted(sent, SOURCE, 0) for _ in range(100)]
    assert len({reply[8:32] for reply in replies}) == 100


def test_the_first_nonce_of_a_secret_is_random_and_the_next_ones_count(profile, jar):
    drawn = [b"secret".ljust(32), bytes(16) + b"\xff" * 8, b"other secret".ljust(32), b"n" * 24]
    checker = CookieChecker(profile, PUBLIC, lambda size: drawn.pop(0))
    for now, nonce in ((0, bytes(16) + b"\xff" * 8), (119, bytes(24)), (120, b"n" * 24), (120, b"n" * 23 + b"o")):
        reply = checker.create_reply_untrusted(message(profile, jar, now), SOURCE, now)
        assert reply[8:32] == nonce
        jar.consume_reply_untrusted(profile, reply, now)
        assert checker.proves_source_untrusted(message(profile, jar, now), SOURCE, now)


def test_hchacha20_gives_the_known_answer():
    # draft-irtf-cfrg-xchacha-03, section 2.2.1.
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    answer = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    assert hchacha20(bytes(range(32)), nonce).hex() == answer


def test_a_cookie_is_sealed_by_xchacha20_poly1305():
    # The same draft, appendix A.3.1.
    text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen "
    nonce = bytes(range(0x40, 0x58))
    associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = _xchacha20_poly1305(bytes(range(0x80, 0xA0)), nonce).encrypt(
        _tail(nonce), text + b"would be it.", associated
    )
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
        "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )


def test_mac_is_keyed_blake2s_of_16_bytes_in_pieces():
    assert (
        mac(b"k" * 32, b"ab", b"", memoryview(b"c"))
        == hashlib.blake2s(b"abc", key=b"k" * 32, digest_size=16).digest()
    )
