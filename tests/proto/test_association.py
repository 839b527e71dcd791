"""One peer over datagrams in virtual time: sessions, timers, retries, endpoints. a begins, unless a test says so."""

import random
from itertools import pairwise

import pytest

from tests.proto.ends import (
    NOW,
    TO_A,
    TO_B,
    Cables,
    Way,
    association,
    elapse,
    end,
    events,
    everything,
    ipv4,
    joined,
    messages,
    pair,
    passes,
    peer_of,
    point,
    send,
    told,
)  # fmt: skip
from tunneld.proto.const import (
    FORGET_AFTER_TIME,
    KEEPALIVE_TIMEOUT,
    MAX_STAGED_PACKETS,
    MAX_TIMER_HANDSHAKES,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
    REKEY_JITTER,
    REKEY_TIMEOUT,
)
from tunneld.proto.errors import Reason
from tunneld.proto.events import Established, Forgotten, GaveUp, Initiated, Unanswered, Unconfirmed
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile

TUN = tunneld_profile("udp", "tun", "chacha20-poly1305")
INITIATION, RESPONSE, DATA = MessageType.INITIATION, MessageType.RESPONSE, MessageType.DATA
# One try of an initiation, with the jitter that ends.py draws.
TRY = REKEY_TIMEOUT + REKEY_JITTER / 2


@pytest.fixture(params=[WIREGUARD, TUN], ids=lambda profile: profile.settings)
def profile(request):
    return request.param


# Beginning


def test_the_first_packet_brings_about_a_session_and_arrives(profile):
    wire = pair(profile)
    send(wire, "a", NOW)
    assert wire.received == {"a": [], "b": [TO_B]}
    assert [(sender, message[0] & 0x7F) for sender, _, message in wire.seen[:2]] == [("a", 1), ("b", 2)]
    assert events(wire.tunnels["a"])[:2] == [Initiated("b", Way("b"), 1), Established("b", Way("b"), True, True)]
    assert Established("a", Way("a"), False, True) in events(wire.tunnels["b"])
    assert passes(wire, NOW)


def test_an_initiator_without_a_packet_confirms_the_keys_at_once(profile):
    wire = pair(profile)
    association(wire.tunnels["a"]).initiate(NOW)
    wire.settle(NOW)
    third = wire.seen[2][2]
    assert len(third) == 32 if profile is WIREGUARD else len(third) > 32
    assert told(wire.tunnels["b"], Established)
    assert wire.received == {"a": [], "b": []}


def test_a_call_is_heard_under_the_keys_there_are_and_nowhere_else(profile):
    wire = pair(profile)
    assert not association(wire.tunnels["a"]).call(NOW)
    assert not messages(wire.tunnels["a"], NOW)
    wire = joined(profile)
    before = peer_of(wire.tunnels["b"]).latest_received
    assert association(wire.tunnels["a"]).call(NOW + 50)
    wire.settle(NOW + 50)
    assert peer_of(wire.tunnels["b"]).latest_received == NOW + 50 > before


def test_a_responder_never_seals_before_it_heard_the_new_keys(profile):
    wire = pair(profile)
    wire.tunnels["a"].enqueue([TO_B], NOW)
    ((_, initiation),) = messages(wire.tunnels["a"], NOW)
    wire.deliver("a", "b", [initiation], NOW)
    ((_, response),) = messages(wire.tunnels["b"], NOW)
    send(wire, "b", NOW, lost=everything)
    assert [message[0] & 0x7F for _, _, message in wire.seen] == [INITIATION]
    wire.deliver("b", "a", [response], NOW)
    wire.settle(NOW)
    assert wire.received == {"a": [TO_A], "b": [TO_B]}


def test_while_a_new_session_is_unconfirmed_the_responder_seals_with_the_old_one(profile):
    wire = joined(profile)
    association(wire.tunnels["a"]).initiate(NOW + 10)
    ((_, initiation),) = messages(wire.tunnels["a"], NOW + 10)
    wire.deliver("a", "b", [initiation], NOW + 10)
    ((_, response),) = messages(wire.tunnels["b"], NOW + 10)
    assert passes(wire, NOW + 10)
    wire.deliver("b", "a", [response], NOW + 10)
    assert passes(wire, NOW + 10)


def test_packets_wait_for_keys_and_the_newest_128_are_kept_in_order(profile):
    wire = pair(profile)
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([number])) for number in range(200)]
    for packet in packets:
        wire.tunnels["a"].enqueue([packet], NOW)
    wire.settle(NOW)
    assert wire.received["b"] == packets[-MAX_STAGED_PACKETS:]
    assert wire.tunnels["a"].drops[Reason.NO_SESSION] == 72


def test_nothing_is_sent_to_nowhere(profile):
    wire = pair(profile)
    point(wire.tunnels["a"], "b", None)
    send(wire, "a", NOW)
    association(wire.tunnels["a"]).initiate(NOW)
    assert (wire.seen, wire.tunnels["a"].poll_timeout()) == ([], None)
    assert wire.tunnels["a"].drops == {Reason.NO_PEER: 1}


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("fate", ["lost", "twice", "late"])
def test_any_message_of_the_beginning_may_be_lost_or_come_twice_or_late(profile, fate, number):
    wire, held = pair(profile), []

    def stopped(sender, receiver, message):
        if len(wire.seen) - 1 != number:
            return False
        held.append((sender, receiver, message))
        if fate == "twice":
            wire.deliver(sender, receiver, [message, message], NOW)
        return fate != "twice"

    for second in range(30):
        for name in "ab":
            send(wire, name, NOW + second, lost=stopped)
        elapse(wire, NOW + second, NOW + second + 1, lost=stopped)
        if fate == "late" and second == 3 and held:
            wire.deliver(*held[0][:2], [held[0][2]], NOW + second)
    assert passes(wire, NOW + 30)
    lost = 60 - len(wire.received["a"]) - len(wire.received["b"]) + 2
    assert lost <= (fate == "lost")


@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_two_ends_that_begin_at_once_have_a_session_at_once(profile, times):
    """The messages of both arrive in any order between them, but in that of each sender."""
    lots = random.Random(times)
    for _ in range(times):
        wire, under_way = pair(profile), {"a": [], "b": []}
        for name, packet in (("a", TO_B), ("b", TO_A)):
            wire.tunnels[name].enqueue([packet], NOW)
        while True:
            for name, tunnel in wire.tunnels.items():
                under_way[name] += [message for _, message in messages(tunnel, NOW)]
            senders = [name for name in "ab" if under_way[name]]
            if not senders:
                break
            sender = lots.choice(senders)
            wire.deliver(sender, "b" if sender == "a" else "a", [under_way[sender].pop(0)], NOW)
        assert wire.received == {"a": [TO_A], "b": [TO_B]}
        assert passes(wire, NOW)


@pytest.mark.parametrize("stopped_after", range(6))
def test_an_end_that_is_restarted_in_any_state_has_a_session_again(profile, stopped_after):
    wire = pair(profile)
    send(wire, "a", NOW, lost=lambda *_: len(wire.seen) > stopped_after)
    wire.tunnels["a"] = end("a", {"b": ("10.0.0.2/32",)}, profile=profile, floor=1_700_000_100.0)
    point(wire.tunnels["a"], "b", Way("b"))
    send(wire, "a", NOW + 1)
    assert passes(wire, NOW + 1)


# Renewing


def test_the_initiator_renews_its_keys_at_120_seconds_when_it_sends(profile):
    wire = joined(profile)
    for second in range(1, 400):
        send(wire, "a", NOW + second)
    assert wire.moments("a", INITIATION) == [NOW, NOW + 120, NOW + 240, NOW + 360]
    assert wire.moments("b", INITIATION) == []
    assert len(wire.received["b"]) == 400
    assert REKEY_AFTER_TIME == 120


def test_who_only_sends_back_never_renews_as_long_as_the_initiator_does(profile):
    wire = joined(profile)
    for second in range(1, 400):
        send(wire, "b", NOW + second)
        elapse(wire, NOW + second, NOW + second + 1)
    assert wire.moments("b", INITIATION) == []
    assert len(wire.received["a"]) == 399
    # What a sends by itself, a keepalive or an echo in ten seconds, is sent as well.
    assert NOW + 120 <= wire.moments("a", INITIATION)[1] <= NOW + 120 + KEEPALIVE_TIMEOUT


def test_the_initiator_renews_its_keys_at_165_seconds_when_it_receives(profile):
    for age, renewed in ((REKEY_AFTER_TIME_RECEIVING - 0.1, False), (REKEY_AFTER_TIME_RECEIVING, True)):
        wire = joined(profile)
        peer_of(wire.tunnels["b"]).prober.probe(NOW + age)  # or its echo would be something that a sends
        send(wire, "b", NOW + age)
        assert wire.moments("a", INITIATION) == [NOW, NOW + age][: 1 + renewed]


def test_it_asks_so_once_for_each_session(profile):
    wire = joined(profile)

    def lost(sender, receiver, message):
        return message[0] & 0x7F == INITIATION

    for age in (165, 171, 177):
        peer_of(wire.tunnels["b"]).prober.probe(NOW + age)
        send(wire, "b", NOW + age, lost=lost)
    assert wire.moments("a", INITIATION) == [NOW, NOW + 165]
    elapse(wire, NOW + 177, NOW + 182)
    assert passes(wire, NOW + 182)
    peer_of(wire.tunnels["b"]).prober.probe(NOW + 182 + 166)
    send(wire, "b", NOW + 182 + 166)
    assert wire.moments("a", INITIATION)[-1] == NOW + 182 + 166


def test_keys_of_180_seconds_neither_seal_nor_open(profile):
    wire = joined(profile)
    late = NOW + REJECT_AFTER_TIME
    wire.tunnels["b"].enqueue([TO_A], late - 0.1)
    late_ones = [message for _, message in messages(wire.tunnels["b"], late - 0.1)]
    wire.deliver("b", "a", late_ones, late)
    assert wire.received["a"] == []
    assert wire.tunnels["a"].drops[Reason.EXPIRED] == len(late_ones)
    send(wire, "b", late, lost=everything)
    assert wire.seen[-1][2][0] & 0x7F == INITIATION


def test_all_keys_are_gone_540_seconds_after_the_last_handshake(profile):
    wire = joined(profile)
    a = wire.tunnels["a"]
    elapse(wire, NOW, NOW + FORGET_AFTER_TIME)
    assert len(association(a).slots.sessions()) == 1
    assert a.poll_timeout()[0] == NOW + FORGET_AFTER_TIME
    a.handle_timeout(NOW + FORGET_AFTER_TIME)
    assert association(a).slots.sessions() == []
    assert len(a._station.indices) == 0
    assert told(a, Forgotten) == [Forgotten("b")]
    assert a.poll_timeout() is None
    assert passes(wire, NOW + FORGET_AFTER_TIME)


def test_the_counter_has_keys_renewed_by_either_end_and_then_ends_them(profile):
    wire = joined(profile)
    for name in "ab":
        association(wire.tunnels[name]).slots.current._next = REKEY_AFTER_MESSAGES - 1
    send(wire, "b", NOW + 10)
    assert wire.moments("b", INITIATION) == [NOW + 10]
    assert passes(wire, NOW + 10)
    b = wire.tunnels["b"]
    association(b).slots.current._next = REJECT_AFTER_MESSAGES - 1
    b.enqueue([TO_A, TO_A], NOW + 20)
    if profile is WIREGUARD:
        assert b.drops[Reason.EXPIRED] == 2
        assert [message[0] & 0x7F for _, message in messages(b, NOW + 20)] == [INITIATION]
    wire.settle(NOW + 20)
    assert passes(wire, NOW + 20)


def test_a_clock_that_jumped_leaves_no_old_key_in_use(profile):
    """The machine slept for ten minutes: the next packet begins a handshake, and is not sealed before."""
    wire = joined(profile)
    wake = NOW + 600
    send(wire, "a", wake, lost=everything)
    assert [message[0] & 0x7F for _, _, message in wire.seen[-1:]] == [INITIATION]
    wire.tunnels["a"].handle_timeout(wake)
    assert told(wire.tunnels["a"], Forgotten)
    elapse(wire, wake, wake + 6)
    assert wire.received["b"] == [TO_B, TO_B]


# Silence


def test_an_initiation_is_repeated_18_times_and_then_given_up(profile):
    wire = pair(profile)
    send(wire, "a", NOW, lost=everything)
    elapse(wire, NOW, NOW + 1000, lost=everything)
    moments = wire.moments("a", INITIATION)
    assert moments == pytest.approx([NOW + number * TRY for number in range(19)])
    a = wire.tunnels["a"]
    assert a.drops == {Reason.NO_SESSION: 1}
    found = events(a)
    assert found == [*(Initiated("b", Way("b"), number) for number in range(1, 20)), GaveUp("b", 19)]
    assert (a.poll_timeout(), len(a._station.indices)) == (None, 0)
    send(wire, "a", NOW + 1000, lost=everything)
    assert told(a, Initiated) == [Initiated("b", Way("b"), 1)]
    assert MAX_TIMER_HANDSHAKES == 18


def test_a_late_response_to_an_initiation_that_was_given_up_is_refused(profile):
    wire = pair(profile)
    send(wire, "a", NOW, lost=lambda sender, *_: sender == "b")
    elapse(wire, NOW, NOW + 200, lost=lambda sender, *_: sender == "b")
    response = next(message for sender, _, message in reversed(wire.seen) if sender == "b")
    wire.deliver("b", "a", [response], NOW + 200)
    assert wire.tunnels["a"].drops[Reason.UNEXPECTED_ANSWER] == 1


def test_who_goes_on_sending_never_gives_up(profile):
    wire = pair(profile)
    for second in range(0, 700, 7):
        send(wire, "a", NOW + second, lost=everything)
        elapse(wire, NOW + second, NOW + second + 7, lost=everything)
    assert told(wire.tunnels["a"], GaveUp) == []
    elapse(wire, NOW + 700, NOW + 706)
    assert passes(wire, NOW + 706)


def test_after_giving_up_the_persistent_keepalive_tries_again(profile):
    wire = pair(profile, keepalive=25.0)
    association(wire.tunnels["a"]).initiate(NOW)
    elapse(wire, NOW, NOW + 140, lost=everything)
    moments = wire.moments("a", INITIATION)
    assert moments[19] == pytest.approx(moments[18] + 25)
    elapse(wire, NOW + 140, NOW + 150)
    assert passes(wire, NOW + 150)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_initiations_are_closer_than_five_seconds(profile, seed):
    lots = random.Random(seed)
    wire = pair(profile, jitter=lots.random, keepalive=3.0)
    now = NOW
    for _ in range(300):
        for name in "ab":
            if lots.random() < 0.5:
                send(wire, name, now, lost=lambda *_: lots.random() < 0.5)
        step = lots.choice((0.01, 0.5, 2.0, 20.0))
        now = elapse(wire, now, now + step, lost=lambda *_: lots.random() < 0.5)
    for name in "ab":
        moments = wire.moments(name, INITIATION)
        assert min(later - earlier for earlier, later in pairwise(moments)) >= REKEY_TIMEOUT
    assert len(wire.moments("a", INITIATION) + wire.moments("b", INITIATION)) > 20


def test_a_peer_that_answers_nothing_for_15_seconds_is_asked_for_new_keys(profile):
    wire = joined(profile)
    elapse(wire, NOW, NOW + 20)
    for second in range(20, 40):
        send(wire, "a", NOW + second, lost=everything)
        elapse(wire, NOW + second, NOW + second + 1, lost=everything)
    first = NOW + 20 + KEEPALIVE_TIMEOUT + TRY
    assert wire.moments("a", INITIATION)[1] == pytest.approx(first)
    assert len(told(wire.tunnels["a"], Unanswered)) == 1
    elapse(wire, NOW + 40, NOW + 41)
    assert passes(wire, NOW + 41)


def test_what_is_answered_asks_for_nothing(profile):
    wire = joined(profile)
    for second in range(1, 115):
        send(wire, "a", NOW + second)
        elapse(wire, NOW + second, NOW + second + 1)
    assert told(wire.tunnels["a"], Unanswered) == []
    assert wire.moments("a", INITIATION) == [NOW]


def test_who_only_receives_says_so_after_ten_seconds_and_gets_nothing_back(profile):
    wire = joined(profile)
    elapse(wire, NOW, NOW + 30)
    wire.seen.clear()
    wire.sent_at.clear()
    send(wire, "b", NOW + 30)
    elapse(wire, NOW + 30, NOW + 100)
    keepalives = [name for name, _, message in wire.seen if len(message) == 32]
    if profile is WIREGUARD:
        assert keepalives == ["a"]
        assert wire.moments("a", DATA) == [NOW + 30 + KEEPALIVE_TIMEOUT]
    else:  # b sent a probe beside its packet, and the echo said so before
        assert keepalives == []
        assert wire.moments("a", DATA) == [NOW + 30]
    assert wire.moments("a", INITIATION) == []


def test_a_silent_tunnel_is_silent(profile):
    wire = joined(profile)
    elapse(wire, NOW, NOW + 30)
    wire.seen.clear()
    elapse(wire, NOW + 30, NOW + 500)
    assert wire.seen == []


def test_a_persistent_keepalive_keeps_a_session_for_hours_and_is_not_answered_but_by_an_echo(profile):
    wire = joined(profile, keepalive=25.0)
    elapse(wire, NOW, NOW + 3600)
    a = [now for now in wire.moments("a", DATA) if now > NOW + 250]
    assert 25 <= max(later - earlier for earlier, later in pairwise(a)) <= 26
    assert len(told(wire.tunnels["a"], GaveUp)) == 0
    assert [event.initiator for event in told(wire.tunnels["b"], Established)] == [False] * (3600 // 125)
    assert passes(wire, NOW + 3600)


def test_a_keepalive_finds_out_that_the_peer_is_gone(profile):
    wire = joined(profile, keepalive=25.0)
    elapse(wire, NOW, NOW + 250, lost=everything)
    assert len(wire.moments("a", INITIATION)) > 1


def test_a_responder_that_is_never_confirmed_says_how_often(profile):
    wire = pair(profile)
    send(wire, "a", NOW, lost=lambda sender, *_: sender == "b")
    elapse(wire, NOW, NOW + 12, lost=lambda sender, *_: sender == "b")
    assert told(wire.tunnels["b"], Unconfirmed) == [Unconfirmed("a", Way("a"), 2), Unconfirmed("a", Way("a"), 3)]
    elapse(wire, NOW + 12, NOW + 20)
    assert passes(wire, NOW + 20)
    events(wire.tunnels["b"])
    association(wire.tunnels["a"]).initiate(NOW + 50)
    wire.settle(NOW + 50, lost=lambda sender, *_: sender == "b")
    assert told(wire.tunnels["b"], Unconfirmed) == []


def test_a_session_from_which_nothing_ever_came_is_told_apart(profile):
    """The handshake passes, and nothing that is sealed: a firewall that looks at lengths, or no route back."""
    wire = pair(profile)

    def lost(sender, receiver, message):
        return message[0] & 0x7F == DATA and sender == "b"

    send(wire, "a", NOW, lost=lost)
    elapse(wire, NOW, NOW + 16, lost=lost)
    assert told(wire.tunnels["a"], Unanswered) == [Unanswered("b", True)]
    elapse(wire, NOW + 16, NOW + 40)
    send(wire, "b", NOW + 40)
    send(wire, "a", NOW + 41, lost=everything)
    elapse(wire, NOW + 41, NOW + 60, lost=everything)
    assert told(wire.tunnels["a"], Unanswered) == [Unanswered("b", False)]


def test_of_a_batch_that_a_link_cannot_keep_the_rest_waits_sealed_and_in_order():
    """Over a stream; what comes meanwhile, packets and answers, goes behind it, and without a gap."""
    tcp = tunneld_profile("tcp", "tun", "chacha20-poly1305")
    net = Cables(
        a=end("a", {"b": ("10.0.0.2/32",)}, profile=tcp),
        b=end("b", {"a": ("10.0.0.1/32",)}, profile=tcp),
    )
    for tunnel in net.tunnels.values():
        tunnel.max_packet = 60_000
    ours, _ = net.connect("a", "b", NOW)
    net.settle(NOW)
    a = net.tunnels["a"]
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([number]) * 50_000) for number in range(16)]
    a.enqueue(packets[:15], NOW + 1)
    link, first = a.poll_transmit(NOW + 1)
    assert sum(map(len, first)) < 3 * 65_536
    ours.blocked = True
    a.enqueue(packets[15:], NOW + 1)
    association(a, "b").initiate(NOW + 10)
    assert a.poll_transmit(NOW + 10) is None
    ours.blocked = False
    a.unblocked(ours)
    rest = [message for _, message in messages(a, NOW + 10)]
    received = []
    for message in first + rest:
        received += map(bytes, net.tunnels["b"].receive_untrusted(link.other, [memoryview(message)], NOW + 10))
    assert received == packets
    sizes = [min(len(message), 1000) for message in rest]
    assert 148 in sizes[sizes.index(1000) : len(sizes) - sizes[::-1].index(1000)], "it goes before what is not sealed"
