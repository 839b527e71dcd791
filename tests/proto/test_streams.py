"""Sealed tunnels over streams: docs/PROTOCOL.md 7.6. a and b know each other; x is nobody."""

import itertools
import random

import pytest

from tests.proto.ends import (
    NOW,
    TO_A,
    TO_B,
    Cables,
    Connection,
    association,
    elapse,
    end,
    events,
    initiation,
    ipv4,
    messages,
    peer_of,
    public,
)  # fmt: skip
from tunneld.proto.const import (
    MAX_QUEUED_PACKETS,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_JITTER,
)  # fmt: skip
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Established, Initiated, Refused, Stalled, Superseded
from tunneld.proto.profile import tunneld_profile

TCP = tunneld_profile("tcp", "tun", "chacha20-poly1305")
UDP = tunneld_profile("udp", "tun", "chacha20-poly1305")
AES = tunneld_profile("tcp", "tun", "aes-256-gcm")
SMALLER, GREATER = sorted("ab", key=public)


def pair(**settings):
    return Cables(
        a=end("a", {"b": ("10.0.0.2/32",)}, profile=TCP, **settings),
        b=end("b", {"a": ("10.0.0.1/32",)}, profile=TCP, **settings),
    )


def joined(opener="a", acceptor="b", **settings):
    """Two ends with one connection, on which both have keys; the opener's end of it, and the acceptor's."""
    net = pair(**settings)
    links = net.connect(opener, acceptor, NOW)
    net.settle(NOW)
    return net, *links


def passes(net, now):
    """Whether packets pass both ways."""
    for received in net.received.values():
        received.clear()
    net.tunnels["a"].enqueue([TO_B], now)
    net.tunnels["b"].enqueue([TO_A], now)
    net.settle(now)
    return net.received == {"a": [TO_A], "b": [TO_B]}


def refusal(call, *arguments):
    with pytest.raises(BadPacket) as caught:
        call(*arguments)
    return caught.value.reason


# One connection


def test_a_connection_begins_with_one_initiation_and_carries_packets_when_both_have_keys():
    net = pair()
    ours, theirs = net.connect("a", "b", NOW)
    net.write(NOW)
    assert [len(message) for message in ours.sent] == [148]
    assert not net.tunnels["a"].established(ours)
    net.settle(NOW)
    assert len(theirs.sent[0]) == 92
    assert net.tunnels["a"].established(ours)
    assert net.tunnels["b"].established(theirs)
    assert passes(net, NOW)
    assert net.events["a"][:2] == [Initiated("b", ours, 1), Established("b", ours, True, True)]
    assert net.events["b"][0] == Established("a", theirs, False, True)


def test_the_accepting_end_sends_nothing_but_the_response_before_it_heard_the_new_keys():
    net = pair()
    _, theirs = net.connect("a", "b", NOW)
    net.write(NOW)
    net.read(theirs, NOW)
    b = net.tunnels["b"]
    b.enqueue([TO_A], NOW)
    assert [len(message) for _, message in messages(b, NOW)] == [92]
    assert not b.established(theirs)
    assert peer_of(b).wanted
    assert b.drops == {Reason.NO_LINK: 1}


REFUSED = {
    "another length": (initiation(TCP, "a", "b")[:-1], Reason.UNKNOWN_MESSAGE),
    "another key": (initiation(TCP, "a", "c"), Reason.BAD_MAC1),
    "nobody": (initiation(TCP, "x", "b"), Reason.UNKNOWN_PEER),
    "a bit": (initiation(TCP, "a", "b")[:-33] + b"\1" + initiation(TCP, "a", "b")[-32:], Reason.BAD_MAC1),
    "another cipher": (initiation(AES, "a", "b"), Reason.OTHER_SETTINGS),
    "another transport": (initiation(UDP, "a", "b"), Reason.BAD_INITIATION),
    "a response": (b"\x82\0\0\0".ljust(92, b"\0"), Reason.UNKNOWN_MESSAGE),
    "data": (b"\x84\0\0\0".ljust(148, b"\0"), Reason.UNKNOWN_MESSAGE),
    "a cookie": (b"\x83\0\0\0".ljust(64, b"\0"), Reason.UNKNOWN_MESSAGE),
    "a web browser": (b"GET / HTTP/1.1\r\n".ljust(148, b"\0"), Reason.UNKNOWN_MESSAGE),
}


@pytest.mark.parametrize(("message", "reason"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_known_of_a_connection_whose_first_message_was_refused(message, reason):
    b, link = pair().tunnels["b"], Connection("x")
    assert refusal(b.accept_untrusted, link, message, NOW) is reason
    details = {Reason.UNKNOWN_PEER: public("x"), Reason.OTHER_SETTINGS: "tunneld tun aes-256-gcm"}
    assert events(b) == [Refused(reason, "", link, details.get(reason), 1)]
    assert (messages(b, NOW), b.established(link), b.poll_timeout()) == ([], False, None)
    b.unblocked(link)
    b.close(link)
    assert b.drops == {reason: 1}


@pytest.mark.parametrize("opener", ["a", "b"])
def test_keys_are_renewed_within_the_connection_and_nothing_is_lost(opener):
    net, ours, theirs = joined(opener, "b" if opener == "a" else "a")
    for second in range(1, 500):
        assert passes(net, NOW + second)
        elapse(net, NOW + second, NOW + second + 1)
    initiations = [message for message in ours.sent + theirs.sent if message[0] == 0x81]
    assert len(initiations) == 1 + 499 // 120
    assert net.refused == {"a": [], "b": []}
    assert net.open(opener) == [ours]


def renewing(net, name, now):
    """Let the end want new keys: it has something to send, and its keys are too old for that."""
    net.tunnels[name].enqueue([TO_B if name == "a" else TO_A], now)


def test_an_initiation_is_not_repeated_within_a_connection():
    net, ours, _ = joined()
    for second in range(0, 55):
        now = NOW + REKEY_AFTER_TIME + second
        renewing(net, "a", now)
        net.tunnels["a"].handle_timeout(now)
        net.write(now)
    assert [message[0] for message in ours.sent if message[0] != 0x84] == [0x81, 0x81]
    net.settle(now)
    assert net.refused == {"a": [], "b": []}
    assert passes(net, NOW + REJECT_AFTER_TIME + 1)


def test_a_connection_on_which_no_answer_comes_for_90_s_is_to_be_closed():
    net, ours, _ = joined()
    start = NOW + REJECT_AFTER_TIME
    renewing(net, "a", start)
    net.write(start)
    a = net.tunnels["a"]
    a.handle_timeout(start + REKEY_ATTEMPT_TIME - 0.1)
    assert Stalled("b", ours) not in events(a)
    a.handle_timeout(start + REKEY_ATTEMPT_TIME + REKEY_JITTER)
    assert Stalled("b", ours) in events(a)
    assert a.drops.total() == 0


@pytest.mark.parametrize("first", ["a", "b"])
def test_if_two_initiations_cross_that_of_the_opener_counts(first):
    net, *_ = joined()
    now = NOW + REJECT_AFTER_TIME
    for name in sorted("ab", key=lambda name: name != first):
        renewing(net, name, now)
    net.settle(now)
    assert net.received["a"] == [TO_A]
    assert net.received["b"] == [TO_B]
    assert net.refused == {"a": [], "b": []}
    last = {name: [e for e in net.events[name] if isinstance(e, Established)][1:] for name in "ab"}
    assert [[e.initiator for e in last[name]] for name in "ab"] == [[True], [False]]
    for name in "ba":
        now += REJECT_AFTER_TIME
        renewing(net, name, now)
        net.settle(now)
        assert passes(net, now + 1)


@pytest.mark.parametrize("seed", range(40))
def test_however_initiations_cross_no_message_is_refused(seed):
    """Both ends want new keys at any moment, and what they write arrives in portions of any size."""
    lots = random.Random(seed)
    net, ours, theirs = joined()
    now, sent = NOW, {"a": [], "b": []}
    for number in range(120):
        if number % 8 == 0:
            net.settle(now)
            now += lots.choice((1.0, 16.0, 119.9, 164.9, 178.0, 200.0))
        now += lots.choice((0.0, 0.01, 0.1))
        for name, (source, target) in {"a": ("10.0.0.1", "10.0.0.2"), "b": ("10.0.0.2", "10.0.0.1")}.items():
            if lots.random() < 0.5:
                sent[name].append(ipv4(source, target, number.to_bytes(2, "big")))
                net.tunnels[name].enqueue(sent[name][-1:], now)
            net.tunnels[name].handle_timeout(now)
        net.write(now)
        for link in (ours, theirs):
            held = [link.arrived.pop() for _ in range(lots.randrange(len(link.arrived) + 1))]
            if link.arrived:
                net.read(link, now)
            link.arrived.extend(reversed(held))
            assert net.refused == {"a": [], "b": []}
    net.settle(now)
    lost = len(sent["a"] + sent["b"]) - len(net.received["a"] + net.received["b"])
    assert lost <= net.tunnels["a"].drops[Reason.EXPIRED] + net.tunnels["b"].drops[Reason.EXPIRED] <= 4


def test_an_end_that_answered_may_begin_a_handshake_before_the_new_keys_came():
    """The other end still needs the old keys then: messages under them are under way."""
    net, ours, _ = joined()
    net.tunnels["b"].enqueue([TO_A], NOW + 106)
    net.write(NOW + 106)
    net.tunnels["b"].handle_timeout(NOW + 121.5)
    net.write(NOW + 121.5)
    net.read(ours, NOW + 122)
    for tenth in range(10):
        net.tunnels["a"].enqueue([TO_B], NOW + 122 + tenth / 10)
    net.settle(NOW + 123)
    assert net.refused == {"a": [], "b": []}
    assert net.received == {"a": [TO_A], "b": [TO_B] * 10}


def test_a_message_under_keys_that_are_too_old_by_now_is_dropped_without_a_consequence():
    net, *_ = joined()
    renewing(net, "a", NOW + REJECT_AFTER_TIME - 0.1)
    net.write(NOW + REJECT_AFTER_TIME - 0.1)
    net.settle(NOW + REJECT_AFTER_TIME)
    assert net.refused == {"a": [], "b": []}
    assert net.received["b"] == []
    assert net.tunnels["b"].drops[Reason.EXPIRED] == 2  # a probe went with it
    assert passes(net, NOW + REJECT_AFTER_TIME)


SPOILT = {
    Reason.FORGED: lambda message: message[:-1] + bytes([message[-1] ^ 1]),
    Reason.UNKNOWN_SESSION: lambda message: message[:4] + bytes(4) + message[8:],
    Reason.UNKNOWN_MESSAGE: lambda message: b"\x83" + message[1:],
    Reason.OTHER_SETTINGS: lambda message: message[:1] + b"\1" + message[2:],
}


@pytest.mark.parametrize("reason", SPOILT)
def test_every_message_that_is_refused_ends_the_connection(reason):
    net, _, theirs = joined()
    a, b = net.tunnels["a"], net.tunnels["b"]
    a.enqueue([TO_B], NOW)
    ((_, message),) = messages(a, NOW)
    assert refusal(b.receive_untrusted, theirs, [memoryview(SPOILT[reason](message))], NOW) is reason
    assert b.drops == {reason: 1}


@pytest.mark.parametrize("length", [0, 3, 7, 8, 31])
def test_a_message_that_is_too_short_ends_the_connection(length):
    net, ours, theirs = joined()
    short = memoryview(ours.sent[-1][:length])
    reason = refusal(net.tunnels["b"].receive_untrusted, theirs, [short], NOW)
    assert reason is (Reason.UNKNOWN_MESSAGE if length < 4 else Reason.UNKNOWN_SESSION)


@pytest.mark.parametrize("order", [(1, 0), (0, 0), (0, 2), (0, 1, 1)])
def test_a_counter_is_that_of_the_message_before_plus_one(order):
    net, _, theirs = joined()
    sent = []
    for _ in range(3):
        renewing(net, "a", NOW)
        sent += [memoryview(message) for _, message in messages(net.tunnels["a"], NOW)]
    assert refusal(net.tunnels["b"].receive_untrusted, theirs, [sent[n] for n in order], NOW) is Reason.REPLAYED


def test_a_session_belongs_to_its_connection():
    net, _, first = joined(SMALLER, GREATER)
    _, second = net.connect(GREATER, SMALLER, NOW + 10)
    net.write(NOW + 10)
    net.read(second, NOW + 10)
    net.tunnels[GREATER].enqueue([TO_A if GREATER == "b" else TO_B], NOW + 10)
    stolen = [memoryview(message) for link, message in messages(net.tunnels[GREATER], NOW + 10) if link is first]
    assert stolen
    assert refusal(net.tunnels[SMALLER].receive_untrusted, second, stolen, NOW + 10) is Reason.UNKNOWN_SESSION


def test_before_there_are_keys_a_further_initiation_ends_the_connection():
    net = pair()
    ours, theirs = net.connect("a", "b", NOW)
    net.write(NOW)
    net.read(theirs, NOW)
    for name, link, other in (("b", theirs, "a"), ("a", ours, "b")):
        again = memoryview(initiation(TCP, other, name))
        assert refusal(net.tunnels[name].receive_untrusted, link, [again], NOW + 1) is Reason.UNKNOWN_MESSAGE


def test_an_initiation_of_another_peer_ends_the_connection():
    b = end("b", {"a": ("10.0.0.1/32",), "c": ()}, profile=TCP)
    net = Cables(a=end("a", {"b": ("10.0.0.2/32",)}, profile=TCP), b=b)
    _, theirs = net.connect("a", "b", NOW)
    net.settle(NOW)
    other = memoryview(initiation(TCP, "c", "b"))
    assert refusal(b.receive_untrusted, theirs, [other], NOW) is Reason.UNEXPECTED_ANSWER


def test_an_initiation_that_is_none_ends_the_connection():
    net, _, theirs = joined()
    bad = memoryview(initiation(TCP, "x", "b"))
    assert refusal(net.tunnels["b"].receive_untrusted, theirs, [bad], NOW) is Reason.UNKNOWN_PEER


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_response_is_taken_once_and_where_it_was_asked_for(name):
    net, ours, theirs = joined()
    response = memoryview(theirs.sent[0])
    reason = refusal(net.tunnels[name].receive_untrusted, ours if name == "a" else theirs, [response], NOW)
    assert reason is Reason.UNEXPECTED_ANSWER


def test_a_connection_that_is_gone_took_its_keys_along():
    net, ours, theirs = joined()
    for name, link in (("a", ours), ("b", theirs)):
        net.tunnels[name].close(link)
        net.tunnels[name].close(link)
        assert net.tunnels[name].poll_timeout() is None
        assert not net.tunnels[name].established(link)
        assert association(net.tunnels[name]) is None
        assert len(net.tunnels[name]._station.indices) == 0
    net.connect("a", "b", NOW + 1)
    net.settle(NOW + 1)
    assert passes(net, NOW + 1)


# Two connections


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_of_two_connections_that_of_the_smaller_key_stays_whatever_comes_first(order):
    """The four ends of two connections are read in this order, again and again."""
    net = pair()
    links = [*net.connect(SMALLER, GREATER, NOW), *net.connect(GREATER, SMALLER, NOW + 0.1)]
    for _ in range(20):
        for number in order:
            net.write(NOW + 0.1)
            if links[number].arrived and not links[number].closed:
                net.read(links[number], NOW + 0.1)
    assert [link.closed for link in links] == [False, False, True, True]
    superseded = {name: [e.link for e in net.events[name] if isinstance(e, Superseded)] for name in "ab"}
    assert superseded == {GREATER: [links[2]], SMALLER: []}
    assert net.refused == {"a": [], "b": []}
    assert passes(net, NOW + 1)


@pytest.mark.parametrize("opener", ["a", "b"])
def test_of_two_connections_of_one_end_the_newer_stays_once_both_have_its_keys(opener):
    acceptor = "b" if opener == "a" else "a"
    net, _, old = joined(opener, acceptor)
    _, new = net.connect(opener, acceptor, NOW + 1)
    net.write(NOW + 1)
    net.read(new, NOW + 1)
    assert association(net.tunnels[acceptor]).link is old
    assert not old.closed
    net.settle(NOW + 1)
    assert old.closed
    assert passes(net, NOW + 2)


def test_the_accepting_end_has_the_older_of_two_connections_closed():
    net, _, old = joined()
    ours, theirs = net.connect("a", "b", NOW + 1)
    net.write(NOW + 1)
    net.read(theirs, NOW + 1)
    net.write(NOW + 1)
    net.tunnels["a"].receive_untrusted(ours, [memoryview(ours.arrived.popleft())], NOW + 1)
    net.write(NOW + 1)
    net.read(theirs, NOW + 1)
    assert Superseded("a", old) in net.events["b"]


def test_of_many_connections_that_a_peer_opens_beside_ours_the_newest_is_left():
    """The peer closes none of those that it has opened, though it should."""
    net, ours, _ = joined(SMALLER, GREATER)
    tunnel = net.tunnels[SMALLER]
    net.look = lambda name: net.events[name].extend(events(net.tunnels[name]))
    opened = []
    for number in range(1, 6):
        opened.append(net.connect(GREATER, SMALLER, NOW + number)[1])
        net.settle(NOW + number)
    assert association(tunnel).link is ours
    superseded = {event.link for event in net.events[SMALLER] if isinstance(event, Superseded)}
    assert superseded == set(opened[:-1])


def test_when_a_connection_ends_another_that_stands_carries_the_packets():
    net, _, old = joined(GREATER, SMALLER)
    new, theirs = net.connect(SMALLER, GREATER, NOW + 1)
    for link in (theirs, new):
        net.write(NOW + 1)
        net.read(link, NOW + 1)
    tunnel = net.tunnels[SMALLER]
    assert association(tunnel).link is new
    assert not old.closed
    net.close(new)
    assert association(tunnel).link is old
    assert passes(net, NOW + 2)


def test_a_thousand_replayed_initiations_on_new_connections_displace_nothing():
    net, ours, theirs = joined()
    b, recorded = net.tunnels["b"], ours.sent[0]
    for number in range(1000):
        assert refusal(b.accept_untrusted, Connection("x"), recorded, NOW + 1 + number) is Reason.OLD_TIMESTAMP
    (refused,) = events(b)
    assert (refused.reason, refused.peer, refused.detail, refused.count) == (Reason.OLD_TIMESTAMP, "a", 0.0, 1000)
    assert association(b).link is theirs
    assert passes(net, NOW + 1)
    assert len(b._connections) == 1


def test_strangers_who_flood_are_refused_before_they_cost_much_and_nobody_elsewhere_is():
    b, message = pair().tunnels["b"], initiation(TCP, "x", "b")
    for _ in range(100):
        refusal(b.accept_untrusted, Connection("x"), message, NOW)
    assert b.drops == {Reason.UNKNOWN_PEER: 55, Reason.RATE_LIMITED: 45}
    assert b.accept_untrusted(Connection("a", bytes(4)), initiation(TCP, "a", "b"), NOW) is peer_of(b)


def test_initiations_replayed_to_a_restarted_end_displace_nothing():
    """It knows no timestamps any more, so it answers each of them once; nobody can go on from there."""
    recorded = [initiation(TCP, "a", "b", 1e9 + number) for number in range(100)]
    net, _, theirs = joined()
    b = net.tunnels["b"]
    peer_of(b)._stamps.reset()
    strangers = [Connection("x") for _ in recorded]
    for number, (link, message) in enumerate(zip(strangers, recorded, strict=True)):
        assert b.accept_untrusted(link, message, NOW + 1 + number) is peer_of(b)
        assert [len(answer) for to, answer in messages(b, NOW + 1 + number) if to is link] == [92]
        assert not b.established(link)
    assert association(b).link is theirs
    for link in strangers:
        b.close(link)
    assert passes(net, NOW + 101)


# A connection that takes no more


def numbered(count, size=100):
    return [ipv4("10.0.0.2", "10.0.0.1", number.to_bytes(4, "big").ljust(size, b"\0")) for number in range(count)]


def test_packets_for_a_blocked_connection_wait_unsealed_and_the_newest_are_dropped():
    net, _, theirs = joined()
    b = net.tunnels["b"]
    theirs.blocked = True
    for packet in numbered(1000):
        b.enqueue([packet], NOW + 1)
        assert messages(b, NOW + 1) == []
    assert b.drops[Reason.QUEUE_FULL] == 1000 - MAX_QUEUED_PACKETS
    renewing(net, "a", NOW + 1)
    net.settle(NOW + 1)
    b.handle_timeout(NOW + 12)  # and no keepalive goes before what waits
    b.unblocked(theirs)
    assert messages(b, NOW + 1) == []
    theirs.blocked = False
    b.unblocked(theirs)
    net.settle(NOW + 1)
    assert net.received["a"] == numbered(MAX_QUEUED_PACKETS)
    assert net.refused == {"a": [], "b": []}


def test_a_connection_that_blocks_again_gets_no_more_than_a_portion():
    """Each time it takes what one call gives, and is then blocked; what is new waits behind what is old."""
    net, _, theirs = joined()
    b, sent = net.tunnels["b"], []
    for number in range(0, 200, 10):
        theirs.blocked = True
        b.enqueue(numbered(200)[number : number + 10], NOW + 1)
        assert b.poll_transmit(NOW + 1) is None
        theirs.blocked = False
        b.unblocked(theirs)
        sent += b.poll_transmit(NOW + 1)[1]
        theirs.blocked = True
        assert b.poll_transmit(NOW + 1) is None
    received = net.tunnels["a"].receive_untrusted(theirs.other, list(map(memoryview, sent)), NOW + 1)
    assert list(map(bytes, received)) == numbered(200)


def test_handshakes_go_on_over_a_blocked_connection():
    net, _, theirs = joined()
    theirs.blocked = True
    renewing(net, "a", NOW + REKEY_AFTER_TIME)
    net.settle(NOW + REKEY_AFTER_TIME)
    assert [event.initiator for event in net.events["a"] if isinstance(event, Established)] == [True, True]
    assert net.received["b"] == [TO_B]
