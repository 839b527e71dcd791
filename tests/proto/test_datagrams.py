"""Sealed tunnels over datagrams: endpoints, replays, strangers, load. a and b are peers; x attacks them."""

import random

import pytest

from tests.proto.ends import (
    NOW,
    TO_A,
    TO_B,
    Way,
    association,
    elapse,
    events,
    initiation,
    ipv4,
    joined,
    messages,
    pair,
    passes,
    peer_of,
    point,
    public,
    send,
    told,
)  # fmt: skip
from tunneld.proto.cookie import COOKIE_SECRET_MAX_AGE, CookieJar
from tunneld.proto.errors import Reason
from tunneld.proto.events import Established, Initiated, Moved, Refused
from tunneld.proto.load import LASTS, MESSAGES
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.wire import COOKIE, RESPONSE, SENDER

TUN = tunneld_profile("udp", "tun", "chacha20-poly1305")
INITIATION = MessageType.INITIATION


@pytest.fixture(params=[WIREGUARD, TUN], ids=lambda profile: profile.settings)
def profile(request):
    return request.param


def initiations(profile, sender, count, first=1e9):
    """Initiations that `sender` made for b, one a second from `first` on."""
    return (initiation(profile, sender, "b", first + number) for number in range(count))


def answers(tunnel, way, message, now):
    """What the tunnel says to one datagram: to whom, and the messages."""
    tunnel.receive_untrusted(way, [memoryview(message)], now)
    return messages(tunnel, now)


def with_macs(body, receiver, jar=None, now=NOW):
    """A handshake message with MACs that fit, as everybody can make them who knows the public key of the receiver."""
    return body + b"".join((jar or CookieJar(public(receiver))).macs(body, now))


# Endpoints


def test_the_endpoint_follows_authentic_new_data_and_nothing_else(profile):
    wire = joined(profile)
    b = wire.tunnels["b"]
    wire.tunnels["a"].enqueue([TO_B], NOW + 1)
    ((_, message),) = messages(wire.tunnels["a"], NOW + 1)
    for bad in (message[:-1] + bytes([message[-1] ^ 1]), message[:31], message[:4] + bytes(4) + message[8:]):
        wire.deliver("x", "b", [bad], NOW + 1)
    assert association(b).link == Way("a")
    wire.deliver("c", "b", [message], NOW + 1)
    assert association(b).link == Way("c")
    wire.deliver("x", "b", [message], NOW + 1)
    assert association(b).link == Way("c")
    assert told(b, Moved) == [Moved("a", Way("c"))]
    b.enqueue([TO_A], NOW + 1)
    assert [link for link, _ in messages(b, NOW + 1)] == [Way("c")]


def test_a_pinned_endpoint_stays_but_an_unknown_one_is_learnt(profile):
    wire = joined(profile, pinned=True)
    b = wire.tunnels["b"]
    for start, learnt in ((Way("a"), Way("a")), (None, Way("c"))):
        point(b, "a", start)
        wire.tunnels["a"].enqueue([TO_B], NOW + 1)
        wire.deliver("c", "b", [message for _, message in messages(wire.tunnels["a"], NOW + 1)], NOW + 1)
        assert association(b).link == learnt
    assert len(wire.received["b"]) == 3


def test_initiations_and_responses_move_nothing_and_are_answered_where_they_came_from(profile):
    wire = joined(profile)
    association(wire.tunnels["a"]).initiate(NOW + 10)
    ((_, initiation),) = messages(wire.tunnels["a"], NOW + 10)
    wire.deliver("c", "b", [initiation], NOW + 10)
    ((link, response),) = messages(wire.tunnels["b"], NOW + 10)
    assert link == Way("c")
    wire.deliver("d", "a", [response], NOW + 10)
    assert {name: association(tunnel).link for name, tunnel in wire.tunnels.items()} == {"a": Way("b"), "b": Way("a")}


def test_bytes_are_counted_as_wg_does(profile):
    wire = joined(profile)
    wire.deliver("x", "b", [wire.seen[-1][2], bytes(100)], NOW)
    sent = {name: sum(len(message) for sender, _, message in wire.seen if sender == name) for name in "ab"}
    a, b = peer_of(wire.tunnels["a"]), peer_of(wire.tunnels["b"])
    assert (a.sent_bytes, a.received_bytes) == (b.received_bytes, b.sent_bytes) == (sent["a"], sent["b"])


# Replay


@pytest.mark.parametrize("depth", [1, 2, 64, 1000, 8000])
def test_whatever_order_messages_come_in_each_packet_arrives_once(profile, depth):
    wire, lots = joined(profile), random.Random(depth)
    packets = [ipv4("10.0.0.1", "10.0.0.2", number.to_bytes(4, "big")) for number in range(max(1000, depth + 200))]
    out = []
    for packet in packets:
        wire.tunnels["a"].enqueue([packet], NOW + 1)
        out += messages(wire.tunnels["a"], NOW + 1)
    arriving = []
    for start in range(0, len(out), depth):
        part = [message for _, message in out[start : start + depth]]
        arriving += lots.sample(part, len(part))
    times = 5 if depth <= 1000 else 2
    duplicated = [message for message in arriving for _ in range(times)]
    wire.received["b"].clear()
    for start in range(0, len(duplicated), 64):
        wire.deliver("a", "b", duplicated[start : start + 64], NOW + 1)
    assert sorted(wire.received["b"]) == packets
    assert wire.tunnels["b"].drops[Reason.REPLAYED] == (times - 1) * len(arriving)


def test_old_initiations_stop_no_traffic_of_two_ends_that_began_at_once(profile):
    """Each seals in the session that it initiated, which is previous at the other, and b has just been restarted."""
    wire = pair(profile)
    a, b = wire.tunnels.values()
    association(a).initiate(NOW)
    association(b).initiate(NOW)
    wire.settle(NOW)
    assert association(a).slots.current.initiator
    assert association(b).slots.current.initiator
    peer_of(b)._stamps.reset()
    for number, recorded in enumerate(initiations(profile, "a", 3)):
        now = NOW + 1 + number
        ((_, answer),) = answers(b, Way("x"), recorded, now)
        assert len(answer) == 92
        assert passes(wire, now)


@pytest.mark.parametrize("times", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_replayed_initiation_changes_nothing_and_gets_no_answer(profile, times):
    wire = joined(profile)
    b, recorded = wire.tunnels["b"], wire.seen[0][2]
    before = association(b).slots.sessions()
    for number in range(times):
        assert answers(b, Way("x"), recorded, NOW + 1 + number / 100) == []
    assert association(b).slots.sessions() == before
    assert association(b).link == Way("a")
    assert b.drops[Reason.OLD_TIMESTAMP] == times
    (refused,) = told(b, Refused)
    assert (refused.peer, refused.detail, refused.count) == ("a", 0.0, times)
    assert passes(wire, NOW + 102)


def test_after_a_restart_each_old_initiation_is_answered_once_where_it_came_from_and_harms_no_session(profile):
    wire = joined(profile)
    b, old = wire.tunnels["b"], list(initiations(profile, "a", 50))
    peer_of(b)._stamps.reset()
    for number, message in enumerate(old):
        ((link, answer),) = answers(b, Way("x"), message, NOW + 1 + number)
        assert (link, len(answer)) == (Way("x"), 92)
        assert answers(b, Way("x"), message, NOW + 1.5 + number) == []
        assert passes(wire, NOW + 1.5 + number)
    assert association(b).link == Way("a")
    assert told(b, Established) == []
    assert len(b._station.indices) == 2
    association(wire.tunnels["a"]).initiate(NOW + 60)
    wire.settle(NOW + 60)
    assert [event.initiator for event in told(b, Established)] == [False]
    assert passes(wire, NOW + 60)


def test_initiations_of_one_peer_are_answered_no_faster_than_50_a_second(profile):
    b = pair(profile).tunnels["b"]
    answered = 0
    for number, message in enumerate(initiations(profile, "a", 40)):
        answered += len(answers(b, Way("a"), message, NOW + number / 128))
    assert answered == 14  # every third, as two are 16 ms
    assert b.drops == {Reason.RATE_LIMITED: 26}


# Strangers


def spoofed(profile, lots, index):
    """An answer to the initiation with that index, from somebody who knows public keys and sees the wire."""
    kind = lots.choice(("response", "response with a MAC1", "cookie"))
    if kind == "cookie":
        return COOKIE.pack(profile.words[MessageType.COOKIE], index, lots.randbytes(24), lots.randbytes(32))
    body = RESPONSE.pack(
        profile.words[MessageType.RESPONSE], lots.getrandbits(32), index, lots.randbytes(48), bytes(16), bytes(16)
    )[:-32]
    return body + bytes(32) if kind == "response" else with_macs(body, "a")


@pytest.mark.parametrize(
    ("handshakes", "each"), [(5, 100), pytest.param(100, 1000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_spoofed_answers_do_not_keep_the_true_one_from_its_work(profile, handshakes, each):
    lots, wire = random.Random(7), pair(profile)
    a = wire.tunnels["a"]
    for number in range(handshakes):
        now = NOW + 200 * number
        wire.tunnels["a"].enqueue([TO_B], now)
        ((_, initiation),) = messages(a, now)
        (index,) = SENDER.unpack_from(initiation)
        wire.deliver("a", "b", [initiation], now)
        truth = messages(wire.tunnels["b"], now)
        for step in range(each):
            assert answers(a, Way("x"), spoofed(profile, lots, index), now + step / 300) == []
        wire.deliver("b", "a", [message for _, message in truth], now + each / 300)
        wire.settle(now + each / 300)
        assert len(wire.received["b"]) == number + 1
        assert association(a).link == Way("b")
    reasons = {Reason.BAD_MAC1, Reason.BAD_RESPONSE, Reason.BAD_COOKIE}
    assert {reason for reason, count in a.drops.items() if count} == reasons
    assert sum(a.drops[reason] for reason in reasons) == handshakes * each


def test_a_response_to_no_initiation_is_unexpected(profile):
    wire = joined(profile)
    a, lots = wire.tunnels["a"], random.Random(1)
    for index in (association(a).slots.current.local_index, 0x12345678):
        body = RESPONSE.pack(profile.words[MessageType.RESPONSE], 1, index, lots.randbytes(48), bytes(16), bytes(16))
        assert answers(a, Way("x"), with_macs(body[:-32], "a"), NOW) == []
    again = next(message for sender, _, message in wire.seen if sender == "b")
    assert answers(a, Way("b"), again, NOW) == []
    assert a.drops[Reason.UNEXPECTED_ANSWER] == 3
    cookie = COOKIE.pack(profile.words[MessageType.COOKIE], 0x12345678, bytes(24), bytes(32))
    assert answers(a, Way("x"), cookie, NOW) == []
    assert a.drops[Reason.UNEXPECTED_ANSWER] == 4


def test_strangers_get_no_answer_and_the_operator_gets_the_cause(profile):
    b = pair(profile).tunnels["b"]
    other = tunneld_profile("udp", "tap", "aes-256-gcm")
    for message, reason, detail in (
        (b"", Reason.UNKNOWN_MESSAGE, None),
        (b"GET / HTTP/1.1", Reason.UNKNOWN_MESSAGE, None),
        (next(initiations(profile, "x", 1))[:-1], Reason.UNKNOWN_MESSAGE, None),
        (next(initiations(other, "a", 1)), Reason.OTHER_SETTINGS, "tunneld tap aes-256-gcm"),
        (next(initiations(profile, "a", 1))[:116] + bytes(32), Reason.BAD_MAC1, None),
        (with_macs(profile.words[INITIATION] + bytes(range(112)), "b"), Reason.BAD_INITIATION, None),
        (with_macs(profile.words[INITIATION] + bytes(112), "b"), Reason.UNUSABLE_KEY, None),
        (next(initiations(profile, "x", 1)), Reason.UNKNOWN_PEER, public("x")),
        (profile.words[MessageType.DATA] + bytes(28), Reason.UNKNOWN_SESSION, None),
        (profile.words[MessageType.DATA], Reason.UNKNOWN_SESSION, None),
    ):
        assert answers(b, Way("x"), message, NOW) == []
        assert events(b) == [Refused(reason, "", Way("x"), detail, 1)]
    assert b.poll_timeout() is None
    assert len(b._station.indices) == 0


def test_data_of_no_session_of_ours_is_refused_run_by_run(profile):
    wire = joined(profile)
    b = wire.tunnels["b"]
    word = profile.words[MessageType.DATA]
    wire.tunnels["a"].enqueue([TO_B], NOW)
    (true,) = (message for _, message in messages(wire.tunnels["a"], NOW))
    batch = [word + bytes(28)] * 3 + [true] + [word + b"\1" * 28] * 2
    received = b.receive_untrusted(Way("a"), list(map(memoryview, batch)), NOW)
    assert list(map(bytes, received)) == [TO_B]
    assert b.drops == {Reason.UNKNOWN_SESSION: 5}


# Load


def flooded(profile, now, wire=None):
    """The wire, and b under load: strangers who know its public key send it nonsense."""
    wire = wire or pair(profile)
    b, lots = wire.tunnels["b"], random.Random(3)
    for _ in range(MESSAGES + 10):
        body = profile.words[INITIATION] + lots.randbytes(112)
        b.receive_untrusted(Way("flood"), [memoryview(with_macs(body, "b"))], now)
        messages(b, now)
    events(b)
    return wire


def test_bad_mac1_is_no_load(profile):
    wire = pair(profile)
    b = wire.tunnels["b"]
    for number in range(1000):
        assert answers(b, Way("x"), profile.words[INITIATION] + number.to_bytes(144, "big"), NOW) == []
    send(wire, "a", NOW)
    assert wire.received["b"] == [TO_B]


def test_under_load_a_cookie_is_asked_for_and_then_taken(profile):
    wire = flooded(profile, NOW)
    send(wire, "a", NOW)
    assert [len(message) for sender, _, message in wire.seen if sender == "b"] == [64]
    assert wire.tunnels["b"].drops[Reason.NO_COOKIE] > 0
    elapse(wire, NOW, NOW + 5)
    assert told(wire.tunnels["a"], Initiated) == [Initiated("b", Way("b"), 1)]
    assert association(wire.tunnels["a"]).link == Way("b")
    flooded(profile, NOW + 5, wire)
    elapse(wire, NOW + 5, NOW + 5.5)
    assert wire.received["b"] == [TO_B]
    assert wire.moments("a", INITIATION)[1] > NOW + 5


@pytest.mark.parametrize("fault", ["other address", "other port", "too old", "a bit", "none"])
def test_under_load_a_cookie_that_is_not_right_gets_another_cookie_at_most(profile, fault):
    wire = flooded(profile, NOW)
    send(wire, "a", NOW)
    now = NOW + (COOKIE_SECRET_MAX_AGE if fault == "too old" else 10)
    flooded(profile, now, wire)
    second = next(initiations(profile, "a", 1, 2e9))[:-32]
    jar = peer_of(wire.tunnels["a"]).remote.jar
    message = with_macs(second, "b", jar, NOW + 10)
    assert message[-16:] != bytes(16)
    if fault == "a bit":
        message = message[:-1] + bytes([message[-1] ^ 1])
    way = {"other address": Way("c"), "other port": OtherPort("a")}.get(fault, Way("a"))
    ((to, answer),) = answers(wire.tunnels["b"], way, message, now)
    assert to == way
    assert len(answer) == (92 if fault == "none" else 64)


class OtherPort(Way):
    """The same address and another port."""

    @property
    def source(self) -> bytes:
        return self.ip + b"\0\1"


def test_a_load_ends_a_second_after_the_flood(profile):
    wire = flooded(profile, NOW)
    b = wire.tunnels["b"]
    old = initiations(profile, "a", 2)
    ((_, answer),) = answers(b, Way("a"), next(old), NOW + LASTS - 0.01)
    assert len(answer) == 64
    ((_, answer),) = answers(b, Way("a"), next(old), NOW + LASTS + 0.1)
    assert len(answer) == 92


def test_under_load_a_proved_address_has_20_messages_a_second(profile):
    wire = flooded(profile, NOW)
    send(wire, "a", NOW)
    b, jar = wire.tunnels["b"], peer_of(wire.tunnels["a"]).remote.jar
    answered = 0
    for number, message in enumerate(initiations(profile, "a", 200, 2e9)):
        now = NOW + 0.5 + number / 100
        if number % 50 == 0:
            flooded(profile, now, wire)
        answered += len(answers(b, Way("a"), with_macs(message[:-32], "b", jar, now), now))
    assert 20 * 2 - 1 <= answered <= 5 + 20 * 2
    assert len(b._limiter) == 1
    b.handle_timeout(NOW + 10)
    assert len(b._limiter) == 0


def test_a_response_may_be_asked_for_a_cookie_too(profile):
    """The initiator is under load: it takes the response to its second try, made with the cookie for the first."""
    wire = flooded(profile, NOW)
    wire.tunnels["b"].enqueue([TO_A], NOW)
    wire.settle(NOW)
    assert [len(message) for sender, _, message in wire.seen if sender == "b"] == [148, 64]
    assert wire.received["a"] == []
    elapse(wire, NOW, NOW + 5.1)
    flooded(profile, NOW + 5.1, wire)
    elapse(wire, NOW + 5.1, NOW + 6)
    assert wire.received["a"] == [TO_A]


@pytest.mark.parametrize("load", [False, True])
def test_no_stranger_gets_more_bytes_than_it_sent(profile, load):
    wire, lots = joined(profile), random.Random(5)
    b = wire.tunnels["b"]
    seeds = [message for _, _, message in wire.seen] + list(initiations(profile, "x", 3))
    for number in range(1500):
        now = NOW + 10 + number / 1000 if load else NOW + 10 + number
        if load and number % 500 == 0:
            flooded(profile, now, wire)
        message = bytearray(lots.choice(seeds))
        for _ in range(lots.randrange(4)):
            message[lots.randrange(len(message))] = lots.randrange(256)
        if lots.random() < 0.2:
            del message[lots.randrange(1, len(message)) :]
        if len(message) in (148, 92) and lots.random() < 0.7:
            message = with_macs(bytes(message[:-32]), "b")
        out = sum(len(answer) for link, answer in answers(b, Way("x"), bytes(message), now) if link == Way("x"))
        assert out <= len(message)
        assert load or out == 0
    assert association(b).link == Way("a")


def test_a_flood_of_anything_leaves_nothing_behind(profile):
    wire, lots = joined(profile), random.Random(6)
    b = wire.tunnels["b"]
    known = len(b._station.indices)
    true = [message for _, _, message in wire.seen]
    for number in range(3000):
        message = lots.choice((*true, lots.randbytes(lots.choice((32, 64, 92, 148)))))
        b.receive_untrusted(Way(f"{number}"), [memoryview(message)] * 3, NOW + number / 1000)
        messages(b, NOW + number / 1000)
    assert len(b._station.indices) == known
    assert len(events(b)) < 30
    assert passes(wire, NOW + 10)
