import itertools
import pickle
import random as lots
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proto.keys import LOW_ORDER, PSK, flips, numbers
from tunneld.proto.cookie import CookieChecker, CookieJar
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.handshake import (
    NO_PRESHARED_KEY,
    Local,
    Remote,
    TransportKeys,
    consume_initiation_untrusted,
    consume_response_untrusted,
    create_initiation,
    create_response,
)
from tunneld.proto.noise import HandshakeState, UnusableKeyError, key_pair
from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.tai64n import stamp
from tunneld.proto.wire import RESPONSE

TUNNELD = [tunneld_profile(t, m, c) for t in ("udp", "tcp") for m in MODES for c in CIPHERS]
PROFILES = [WIREGUARD, *TUNNELD]
STAMP = stamp(1_800_000_000.0)


@dataclass
class End:
    """One end, what it holds of the other, and its source of randomness."""

    local: Local
    remote: Remote
    random: object

    def initiation(self, sender=0x11111111, timestamp=STAMP):
        return create_initiation(
            self.local, self.remote, sender=sender, timestamp=timestamp, now=0.0, random=self.random
        )

    def received(self, message):
        return consume_initiation_untrusted(self.local, message, self.random)

    def response(self, received, sender=0x22222222):
        return create_response(self.local, self.remote, received, sender=sender, now=0.0)

    def keys(self, sent, message):
        return consume_response_untrusted(self.local, sent, message)


def ends(profile=WIREGUARD, other=None, psks=(PSK, PSK), seed=0):
    random = numbers(seed)
    locals_ = Local(profile, random(32)), Local(other or profile, random(32))
    remotes = [Remote(local.static.public, psk) for local, psk in zip(reversed(locals_), psks, strict=True)]
    return [End(local, remote, random) for local, remote in zip(locals_, remotes, strict=True)]


def refusal(consume, *arguments):
    with pytest.raises(BadPacket) as caught:
        consume(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("psk", [PSK, NO_PRESHARED_KEY], ids=["psk", "no-psk"])
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.prologue.decode())
def test_two_messages_give_both_ends_the_same_keys(profile, psk):
    first, second = ends(profile, psks=(psk, psk))
    sent = first.initiation()
    assert len(sent.message) == 148
    received = second.received(sent.message)
    assert (received.static, received.timestamp, received.sender) == (second.remote.public, STAMP, 0x11111111)
    response, theirs = second.response(received)
    assert len(response) == 92
    ours = first.keys(sent, response)
    assert (ours.send, ours.receive) == (theirs.receive, theirs.send)
    assert ours.send != ours.receive
    assert (ours.receiver, theirs.receiver) == (0x22222222, 0x11111111)


def test_the_initiator_sends_with_the_first_key_of_the_handshake():
    first, second = ends()
    sent = first.initiation()
    state = HandshakeState(
        WIREGUARD.noise_name, initiator=False, prologue=WIREGUARD.prologue, s=second.local.static, psk=PSK,
        random=second.random,
    )  # fmt: skip
    state.read_message_untrusted(sent.message[8:116])
    noise = state.write_message(b"")
    response = RESPONSE.pack(WIREGUARD.words[MessageType.RESPONSE], 2, sent.sender, noise, bytes(16), bytes(16))
    keys = first.keys(sent, again(response, second.remote.public))
    assert (keys.send, keys.receive) == state.split()


def test_every_handshake_has_keys_of_its_own():
    first, second = ends()
    seen = set()
    for _ in range(50):
        sent = first.initiation()
        response, _ = second.response(second.received(sent.message))
        keys = first.keys(sent, response)
        seen |= {keys.send, keys.receive, sent.message[8:40], response[12:44]}
    assert len(seen) == 200


def test_no_bit_before_mac2_can_be_turned():
    first, second = ends()
    sent = first.initiation()
    for bad in flips(sent.message, 0, 132):
        refusal(second.received, bad)
    response, keys = second.response(second.received(sent.message))
    for bad in flips(response, 0, 76):
        refusal(first.keys, sent, bad)
    assert first.keys(sent, response).send == keys.receive


def again(message, public):
    """The message with MACs that fit, as everybody can make them who knows the receiver's public key."""
    body = message[:-32]
    return body + b"".join(CookieJar(public).macs(body, 0.0))


def test_no_bit_of_the_noise_messages_can_be_turned_by_one_who_mends_mac1():
    first, second = ends()
    sent = first.initiation()
    for bad in flips(sent.message, 8, 116):
        assert refusal(second.received, again(bad, first.remote.public)) is Reason.BAD_INITIATION
    response, keys = second.response(second.received(sent.message))
    for bad in flips(response, 12, 60):
        assert refusal(first.keys, sent, again(bad, second.remote.public)) is Reason.BAD_RESPONSE
    assert first.keys(sent, response).send == keys.receive


@pytest.mark.parametrize(
    ("profile", "other"), [*itertools.permutations(PROFILES, 2)], ids=lambda p: p.prologue.decode()
)
def test_two_profiles_never_make_a_session(profile, other):
    first, second = ends(profile, other)
    reason = refusal(second.received, first.initiation().message)
    assert reason is (Reason.BAD_INITIATION if profile.settings == other.settings else Reason.OTHER_SETTINGS)


@pytest.mark.parametrize(
    ("profile", "other"), [*itertools.permutations(TUNNELD, 2)], ids=lambda p: p.prologue.decode()
)
def test_two_settings_make_no_session_even_if_the_type_word_is_forged(profile, other):
    first, second = ends(profile, other)
    forged = other.words[MessageType.INITIATION] + first.initiation().message[4:]
    assert refusal(second.received, again(forged, first.remote.public)) is Reason.BAD_INITIATION


def test_a_message_for_another_key_is_told_before_any_curve_operation():
    first, second = ends()
    message = first.initiation().message
    stranger = Local(WIREGUARD, bytes(31) + b"\x40")
    assert refusal(stranger.check_mac1_untrusted, message) is Reason.BAD_MAC1
    low_order = message[:8] + LOW_ORDER[0] + message[40:]
    assert refusal(second.received, low_order) is Reason.BAD_MAC1
    assert refusal(second.received, again(low_order, first.remote.public)) is Reason.UNUSABLE_KEY


def test_another_preshared_key_is_seen_by_the_initiator():
    first, second = ends(psks=(PSK, NO_PRESHARED_KEY))
    sent = first.initiation()
    response, _ = second.response(second.received(sent.message))
    assert refusal(first.keys, sent, response) is Reason.BAD_RESPONSE


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_to_a_peer_with_a_key_of_low_order_nothing_is_sent(public):
    first, _ = ends()
    first.remote = Remote(public)
    with pytest.raises(UnusableKeyError):
        first.initiation()


def test_a_low_order_key_in_a_response_is_refused_and_the_true_response_still_taken():
    first, second = ends()
    sent = first.initiation()
    response, keys = second.response(second.received(sent.message))
    forged = again(response[:12] + LOW_ORDER[2] + response[44:], second.remote.public)
    assert refusal(first.keys, sent, forged) is Reason.UNUSABLE_KEY
    assert first.keys(sent, response).send == keys.receive


def test_an_initiation_is_not_answered_as_that_of_another_peer():
    first, second = ends()
    received = second.received(first.initiation().message)
    second.remote = Remote(second.local.static.public, PSK)
    with pytest.raises(AssertionError):
        second.response(received)


def test_a_response_is_taken_once_and_for_its_own_initiation_only():
    first, second = ends()
    old, sent = first.initiation(sender=1), first.initiation(sender=2)
    response, _ = second.response(second.received(sent.message))
    assert refusal(first.keys, old, response) is Reason.UNEXPECTED_ANSWER
    first.keys(sent, response)
    assert refusal(first.keys, sent, response) is Reason.UNEXPECTED_ANSWER


def test_a_thousand_spoofed_responses_do_not_spoil_the_handshake():
    first, second = ends()
    sent = first.initiation()
    response, keys = second.response(second.received(sent.message))
    noise = numbers(3)
    for _ in range(1000):
        forged = again(response[:12] + noise(48) + bytes(32), second.remote.public)
        assert refusal(first.keys, sent, forged) is Reason.BAD_RESPONSE
    assert first.keys(sent, response).send == keys.receive


def test_mac2_is_written_once_there_is_a_cookie():
    first, second = ends()
    checker = CookieChecker(WIREGUARD, second.local.static.public, second.random)
    reply = checker.create_reply_untrusted(first.initiation().message, b"source", 0.0)
    first.remote.jar.consume_reply_untrusted(WIREGUARD, reply, 0.0)
    message = first.initiation().message
    assert checker.proves_source_untrusted(message, b"source", 0.0)
    assert second.received(message).static == second.remote.public


def test_what_holds_secrets_is_not_pickled():
    first, second = ends()
    message, keys = second.response(second.received(first.initiation().message))
    assert message
    for holder in (first.remote, keys):
        with pytest.raises(TypeError, match="secrets in it"):
            pickle.dumps(holder)


def test_no_secret_shows_itself():
    first, second = ends()
    sent = first.initiation()
    received = second.received(sent.message)
    response, keys = second.response(received)
    text = repr([first.local, first.remote, sent, received, keys, first.keys(sent, response)])
    for secret in (PSK, keys.send, keys.receive):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text


def test_what_holds_secrets_is_not_compared_by_them():
    public = key_pair(numbers(8)(32)).public
    assert Remote(public, PSK) != Remote(public, PSK)
    assert TransportKeys(PSK, PSK, 1) != TransportKeys(PSK, PSK, 1)


@pytest.mark.parametrize("psk", [b"", PSK[:31], PSK + b"\0"], ids=len)
def test_a_preshared_key_of_another_length_is_our_bug(psk):
    with pytest.raises(AssertionError):
        Remote(key_pair(numbers(8)(32)).public, psk)


@given(st.binary(max_size=200), st.sampled_from(PROFILES))
def test_any_bytes_are_refused_by_both_ends(message, profile):
    first, second = ends(profile)
    refusal(second.received, message)
    refusal(first.keys, first.initiation(), message)


@settings(max_examples=200)
@given(st.binary(min_size=108, max_size=108), st.integers(0, 2**32 - 1), st.sampled_from(PROFILES))
def test_any_noise_behind_a_right_mac1_is_refused(noise, sender, profile):
    first, second = ends(profile)
    message = profile.words[MessageType.INITIATION] + sender.to_bytes(4, "little") + noise + bytes(32)
    refusal(second.received, again(message, first.remote.public))


def damaged(order, message, start, end):
    """The message with one to three of its bytes from `start` to before `end` changed."""
    bad = bytearray(message)
    for position in order.sample(range(start, end), order.randint(1, 3)):
        bad[position] ^= order.randint(1, 255)
    return bytes(bad)


@pytest.mark.volume
@pytest.mark.parametrize("profile", [WIREGUARD, TUNNELD[1]], ids=lambda profile: profile.settings)
def test_in_any_order_of_messages_keys_agree_or_do_not_exist(profile):
    transcripts(profile, range(100))


@pytest.mark.long
@pytest.mark.parametrize("thousand", range(1, 11))
def test_in_ten_thousand_orders_of_messages_keys_agree_or_do_not_exist(thousand):
    transcripts(WIREGUARD, range(thousand * 1000, thousand * 1000 + 1000))


def transcripts(profile, seeds):
    """Both ends begin handshakes; a network loses, repeats, delays and damages what it likes."""
    sessions = 0
    for seed in seeds:
        order = lots.Random(seed)
        pair = ends(profile, seed=seed)
        sent, keys = ({}, {}), ([], [])
        wire = []
        for step in range(30):
            side = order.randrange(2)
            if not wire or order.random() < 0.2:
                sent[side][step] = pair[side].initiation(sender=step)
                wire.append((1 - side, sent[side][step].message))
                continue
            to, message = order.choice(wire)
            if order.random() < 0.2:
                message = damaged(order, message, 0, len(message) - 16)
            answer = deliver(pair[to], message, sent[to], keys[to], step)
            if answer is not None:
                wire.append((1 - to, answer))
        agree(*keys)
        sessions += sum(role == "initiator" for role, _ in (*keys[0], *keys[1]))
    assert sessions > len(seeds) / 2


def deliver(end, message, sent, keys, step):
    """Give one message to an end; what it answers, if anything. Keys are noted as (role, keys)."""
    try:
        if len(message) == 148:
            response, made = end.response(end.received(message), sender=step)
            keys.append(("responder", made))
            return response
        index = int.from_bytes(message[8:12], "little")
        if index in sent:
            keys.append(("initiator", end.keys(sent[index], message)))
    except BadPacket:
        pass
    return None


def agree(*sides):
    """What an initiator holds, the responder at the other end holds the other way round; and nobody twice."""
    for ours, theirs in (sides, sides[::-1]):
        held = [(keys.receive, keys.send) for role, keys in theirs if role == "responder"]
        mine = [(keys.send, keys.receive) for role, keys in ours if role == "initiator"]
        assert set(mine) <= set(held)
        assert len(set(mine)) == len(mine)
