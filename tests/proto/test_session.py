"""Two sessions face each other over a list of messages. `ours` initiated, `theirs` responded."""

import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tests.proto.keys import numbers
from tunneld.proto.const import (
    REJECT_AFTER_BLOCKS,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_BLOCKS,
    REKEY_AFTER_MESSAGES,
)
from tunneld.proto.errors import Reason
from tunneld.proto.handshake import (
    Local,
    Remote,
    consume_initiation_untrusted,
    consume_response_untrusted,
    create_initiation,
    create_response,
)
from tunneld.proto.payload import KEEPALIVE
from tunneld.proto.profile import WIREGUARD, tunneld_profile
from tunneld.proto.replay import ReplayWindow, Succession
from tunneld.proto.session import BLOCK_COUNTERS, OVERHEAD_BYTES, Session

CHACHA = tunneld_profile("udp", "tun", "chacha20-poly1305")
AES = tunneld_profile("udp", "tap", "aes-256-gcm")
PROFILES = [WIREGUARD, CHACHA, AES]
KEYS = bytes(range(32)), bytes(range(32, 64))


def session(profile, initiator, received, keys=KEYS, born=0.0):
    indices = (0x01020304, 0xA1A2A3A4)
    return Session(
        profile,
        sending_key=keys[not initiator],
        receiving_key=keys[initiator],
        local_index=indices[not initiator],
        remote_index=indices[initiator],
        initiator=initiator,
        born=born,
        received=received,
    )


def pair(profile, received=ReplayWindow):
    return session(profile, True, received()), session(profile, False, received())


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.settings)
def profile(request):
    return request.param


def test_what_one_end_seals_the_other_opens_both_ways(profile):
    ours, theirs = pair(profile)
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        plaintexts = [b"one", KEEPALIVE, memoryview(bytearray(1420))]
        messages = sender.seal_batch(plaintexts, 0.0)
        assert [len(message) for message in messages] == [3 + 32, 32, 1420 + 32]
        opened = receiver.open_batch_untrusted([memoryview(message) for message in messages], 0.0)
        assert opened.plaintexts == [b"one", b"", bytes(1420)]
        assert (opened.latest, opened.refused) == (2, 0)
        assert not receiver.drops


def test_the_wire_of_wireguard():
    ours, _ = pair(WIREGUARD)
    ours.seal_batch([b""] * 258, 0.0)
    (message,) = ours.seal_batch([b"packet"], 0.0)
    assert message[:16].hex(" ", 4) == "04000000 a4a3a2a1 02010000 00000000"
    nonce = bytes(4) + (258).to_bytes(8, "little")
    assert message[16:] == ChaCha20Poly1305(KEYS[0]).encrypt(nonce, b"packet", None)


@pytest.mark.parametrize(
    ("profile", "aead", "word"), [(CHACHA, ChaCha20Poly1305, "84000000"), (AES, AESGCM, "84030000")]
)
def test_the_wire_of_tunneld(profile, aead, word):
    ours, _ = pair(profile)
    ours.seal_batch([b""] * 258, 0.0)
    (message,) = ours.seal_batch([b"packet"], 0.0)
    assert message[:16].hex(" ", 4) == f"{word} a4a3a2a1 00000000 00000102"
    assert message[16:] == aead(KEYS[0]).encrypt(message[4:16], b"packet", None)


def test_every_bit_counts_and_a_refused_message_changes_nothing(profile):
    ours, theirs = pair(profile)
    (message,) = ours.seal_batch([b"a packet"], 0.0)
    for bit in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        opened = theirs.open_batch_untrusted([flipped], 0.0)
        assert (opened.plaintexts, opened.latest, opened.refused) == ([], None, 1), bit
    assert theirs.drops == {Reason.UNKNOWN_SESSION: 64, Reason.FORGED: 8 * (len(message) - 8)}
    assert theirs.open_batch_untrusted([message], 0.0).plaintexts == [b"a packet"]


def test_no_shortened_or_lengthened_message_is_opened(profile):
    ours, theirs = pair(profile)
    (message,) = ours.seal_batch([b"a packet"], 0.0)
    cut = [message[:size] for size in range(len(message))]
    assert theirs.open_batch_untrusted([*cut, message + b"\0"], 0.0).refused == len(message) + 1
    assert theirs.drops == {Reason.UNKNOWN_SESSION: OVERHEAD_BYTES, Reason.FORGED: len(message) + 1 - OVERHEAD_BYTES}


def test_a_session_does_not_open_its_own_messages(profile):
    ours, _ = pair(profile)
    assert ours.open_batch_untrusted(ours.seal_batch([b"x"], 0.0), 0.0).refused == 1


def test_messages_of_another_cipher_mode_or_protocol_are_of_no_session_of_ours():
    for profile in PROFILES:
        for other in PROFILES:
            ours, theirs = pair(profile)[0], pair(other)[1]
            opened = theirs.open_batch_untrusted(ours.seal_batch([b"x"], 0.0), 0.0)
            assert bool(opened.plaintexts) == (profile is other)


def test_a_datagram_is_opened_once_in_any_order(profile):
    ours, theirs = pair(profile)
    messages = ours.seal_batch([bytes((number,)) for number in range(200)], 0.0)
    random.Random(7).shuffle(messages)
    first = theirs.open_batch_untrusted(messages, 0.0)
    assert sorted(first.plaintexts) == [bytes((number,)) for number in range(200)]
    assert first.plaintexts == [bytes((counter,)) for counter in first.counters]
    again = theirs.open_batch_untrusted(messages * 4, 0.0)
    assert (again.plaintexts, again.latest, again.refused) == ([], None, 800)
    assert theirs.drops == {Reason.REPLAYED: 800}


def test_the_tag_is_checked_before_the_window(profile):
    """A forged message with a far counter must not move the window beyond the true ones."""
    ours, theirs = pair(profile)
    (message,) = ours.seal_batch([b"x"], 0.0)
    far = message[:8] + (10**9).to_bytes(8, profile.counter_order) + message[16:]
    theirs.open_batch_untrusted([far], 0.0)
    assert theirs.open_batch_untrusted([message], 0.0).plaintexts == [b"x"]


def test_on_a_stream_nothing_may_be_missing_repeated_or_late(profile):
    ours, theirs = pair(profile, Succession)
    messages = ours.seal_batch([b"0", b"1", b"2"], 0.0)
    opened = theirs.open_batch_untrusted([messages[0], messages[2], messages[0], messages[1]], 0.0)
    assert (opened.plaintexts, opened.latest, opened.refused) == ([b"0", b"1"], 3, 2)
    assert opened.counters == [0, 1]


def test_the_latest_is_the_last_that_was_new(profile):
    ours, theirs = pair(profile)
    first, second = ours.seal_batch([b"1", b"2"], 0.0)
    assert theirs.open_batch_untrusted([first, second, first, bytes(40)], 0.0).latest == 1


@pytest.mark.parametrize("age", [REJECT_AFTER_TIME, 10_000.0])
def test_old_keys_neither_seal_nor_open(profile, age):
    ours, theirs = pair(profile)
    messages = ours.seal_batch([b"1", b"2"], 0.0)
    assert theirs.open_batch_untrusted(messages[:1], REJECT_AFTER_TIME - 0.001).plaintexts == [b"1"]
    opened = theirs.open_batch_untrusted(messages[1:], age)
    assert (opened.plaintexts, opened.refused, theirs.drops) == ([], 1, {Reason.EXPIRED: 1})
    assert ours.can_seal(REJECT_AFTER_TIME - 0.001)
    assert not ours.can_seal(age)
    assert ours.seal_batch([b"1", b"2"], age) == []
    assert (ours.drops, ours._next) == ({Reason.EXPIRED: 2}, 2)


def test_who_asks_for_new_keys_and_when(profile):
    ours, theirs = pair(profile)
    due = [
        (now, ours.rekey_due_sending(now), ours.rekey_due_receiving(now)) for now in (0, 119.9, 120, 164.9, 165, 180)
    ]
    assert due == [
        (0, False, False), (119.9, False, False), (120, True, False), (164.9, True, False), (165, True, True),
        (180, True, True),
    ]  # fmt: skip
    assert not theirs.rekey_due_sending(179.0), "a responder never asks for age"
    assert not theirs.rekey_due_receiving(179.0)


@pytest.mark.parametrize("initiator", [True, False])
def test_either_end_asks_after_2_to_the_60_messages(profile, initiator):
    sender = session(profile, initiator, ReplayWindow())
    sender._next = REKEY_AFTER_MESSAGES - 1
    assert not sender.rekey_due_sending(0.0)
    sender.seal_batch([KEEPALIVE], 0.0)
    assert sender.rekey_due_sending(0.0)


def test_counters_end_and_never_wrap(profile):
    ours, theirs = pair(profile)
    ours._next = REJECT_AFTER_MESSAGES - 2
    assert ours.seal_batch([b"1", b"2", b"3"], 0.0) == [], "not all of them have a counter left"
    (first,) = ours.seal_batch([b"1"], 0.0)
    assert ours.can_seal(0.0)
    (last,) = ours.seal_batch([b"2"], 0.0)
    assert int.from_bytes(last[8:16], profile.counter_order) == 2**64 - 8131
    assert not ours.can_seal(0.0)
    assert ours.seal_batch([b"3"], 0.0) == []
    assert ours.reserve_block() is None
    assert ours._next == REJECT_AFTER_MESSAGES
    assert ours.drops == {Reason.EXPIRED: 4}
    assert theirs.open_batch_untrusted([last, first], 0.0).plaintexts == [b"2", b"1"]


def test_a_counter_beyond_the_end_is_refused_although_its_tag_is_right(profile):
    ours, theirs = pair(profile)
    ours._next = REJECT_AFTER_MESSAGES - 1
    start = ours.seal_batch([b""], 0.0)[0][:8]
    counter = REJECT_AFTER_MESSAGES.to_bytes(8, profile.counter_order)
    nonce = profile.nonce_prefix + (start + counter)[profile.nonce_start :]
    forged = start + counter + profile.aead(KEYS[0]).encrypt(nonce, b"x", None)
    theirs.open_batch_untrusted([forged], 0.0)
    assert theirs.drops == {Reason.REPLAYED: 1}


def test_aes_asks_after_2_to_the_35_blocks_and_ends_at_2_to_the_36():
    ours, _ = pair(AES)
    ours._blocks = REKEY_AFTER_BLOCKS - 1
    assert not ours.rekey_due_sending(0.0)
    ours.seal_batch([b"x"], 0.0)
    assert ours.rekey_due_sending(0.0)
    ours._blocks = REJECT_AFTER_BLOCKS - 3
    assert ours.seal_batch([bytes(33), bytes(1)], 0.0) == [], "3 and 1 blocks"
    assert len(ours.seal_batch([bytes(32), bytes(1)], 0.0)) == 2
    assert not ours.can_seal(0.0)
    assert ours.seal_batch([KEEPALIVE], 0.0) == []
    assert ours.drops == {Reason.EXPIRED: 3}


def test_keepalives_spend_blocks_of_aes_as_well():
    ours, _ = pair(AES)
    ours._blocks = REJECT_AFTER_BLOCKS - 3
    assert ours.seal_batch([KEEPALIVE] * 4, 0.0) == []
    assert len(ours.seal_batch([KEEPALIVE] * 3, 0.0)) == 3
    assert not ours.can_seal(0.0)


@pytest.mark.parametrize("profile", [WIREGUARD, CHACHA])
def test_chacha_counts_no_blocks(profile):
    ours, _ = pair(profile)
    ours._blocks = REJECT_AFTER_BLOCKS
    assert not ours.rekey_due_sending(0.0)
    assert len(ours.seal_batch([bytes(99)], 0.0)) == 1


def test_a_super_packet_owns_its_block_and_counters_only_grow():
    ours, _ = pair(CHACHA)
    assert ours.reserve_block() == 0
    assert ours.reserve_block() == 64
    counters = [int.from_bytes(message[8:16], "big") for message in ours.seal_batch([b""] * 3, 0.0)]
    assert counters == [128, 129, 130]
    assert ours.reserve_block() == 192
    assert ours._next == 256
    choose = random.Random(8)
    slices, singles = set(), set()
    for _ in range(2000):
        before = ours._next
        if choose.random() < 0.3:
            first = ours.reserve_block()
            assert first % BLOCK_COUNTERS == 0
            assert first >= before
            slices.add(first // BLOCK_COUNTERS)
        else:
            messages = ours.seal_batch([b""] * choose.randint(1, 100), 0.0)
            counters = [int.from_bytes(message[8:16], "big") for message in messages]
            assert counters == list(range(before, before + len(messages)))
            singles |= {counter // BLOCK_COUNTERS for counter in counters}
    assert not slices & singles


class RecordingAead:
    """The real AEAD, which remembers every key and nonce it sealed under."""

    used: set[tuple[bytes, bytes]]

    def __init__(self, key):
        self.key = bytes(key)
        self.aead = ChaCha20Poly1305(key)
        self.decrypt = self.aead.decrypt

    def encrypt(self, nonce, data, associated):
        assert (self.key, nonce) not in self.used
        self.used.add((self.key, nonce))
        return self.aead.encrypt(nonce, data, associated)


def restarts(profile, count, randomness):
    """Both ends start `count` times with the same static keys, shake hands and seal; returns what was used."""
    recording = type("Recording", (RecordingAead,), {"used": set()})
    private = bytes(31) + b"\x41", bytes(31) + b"\x42"
    for start in range(count):
        draw = randomness(start)
        ours, theirs = (Local(profile, key) for key in private)
        sent = create_initiation(
            ours, Remote(theirs.static.public), sender=1, timestamp=bytes(12), now=0.0, random=draw
        )
        received = consume_initiation_untrusted(theirs, sent.message, draw)
        response, their_keys = create_response(theirs, Remote(ours.static.public), received, sender=1, now=0.0)
        our_keys = consume_response_untrusted(ours, sent, response)
        for keys in (our_keys, their_keys):
            sender = session(replace(profile, aead=recording), True, ReplayWindow(), (keys.send, keys.receive))
            sender.seal_batch([b"", b""], 0.0)
            sender.reserve_block()
            sender.seal_batch([b""], 0.0)
    return recording.used


@pytest.mark.volume
def test_no_restart_seals_under_a_key_and_nonce_of_an_earlier_one(profile):
    assert len(restarts(profile, 200, numbers)) == 200 * 2 * 3


@pytest.mark.long
@pytest.mark.timeout(300)
def test_no_restart_of_10000_seals_under_a_key_and_nonce_of_an_earlier_one(profile):
    assert len(restarts(profile, 10_000, numbers)) == 10_000 * 2 * 3


def test_a_repeated_key_and_nonce_would_be_noticed(profile):
    with pytest.raises(AssertionError):
        restarts(profile, 2, lambda start: numbers(0))


def test_a_failure_while_sealing_spends_the_counters(profile):
    ours, _ = pair(profile)
    with pytest.raises(TypeError):
        ours.seal_batch([b"good", ["not bytes"]], 0.0)
    assert ours._next == 2


def test_no_key_is_shown(profile):
    ours, _ = pair(profile)
    assert repr(ours) == "Session(local_index=0x01020304, remote_index=0xa1a2a3a4)"
    shown = repr([getattr(ours, name) for name in vars(ours)])
    assert not any(key.hex()[:16] in shown or repr(key)[2:-1] in shown for key in KEYS)
