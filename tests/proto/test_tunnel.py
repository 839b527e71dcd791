"""What both kinds of sealed tunnels have in common: control channel, routes, settings, a bad peer."""

import random

import pytest

from tests.proto.ends import (
    NOW,
    TO_B,
    Cables,
    Connection,
    Overheard,
    Way,
    Wire,
    association,
    elapse,
    end,
    events,
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
from tests.proto.keys import PSK
from tunneld.proto.const import MAX_QUEUED_PACKETS
from tunneld.proto.controlchannel import Echo, Goodbye, Hello, Probe, encode
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Compared, Established, Initiated, Refused, Restarted, SaidGoodbye, Unconfirmed
from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.tunnel import runs_untrusted

TUN = tunneld_profile("udp", "tun", "chacha20-poly1305")
TAP = tunneld_profile("udp", "tap", "chacha20-poly1305")
TCP = tunneld_profile("tcp", "tun", "chacha20-poly1305")


def said(tunnel):
    """What the end put into plaintexts since it was last asked."""
    payload = peer_of(tunnel).payload
    assert isinstance(payload, Overheard)
    words, payload.said = payload.said, []
    return words


# The control channel


def test_hello_is_the_first_in_every_session_from_both_ends():
    wire = pair(TUN)
    for beginner, now in (("a", NOW), ("b", NOW + 50), ("a", NOW + 100)):
        association(wire.tunnels[beginner]).initiate(now)
        wire.settle(now)
        for name in "ab":
            ((hello, probe), (echo,)) = said(wire.tunnels[name])
            assert isinstance(hello, Hello)
            assert (hello.mtu, hello.mode, hello.complete) == (1400, "tun", True)
            assert str(hello.allowed_ips[0]) == ("10.0.0.2/32" if name == "a" else "10.0.0.1/32")
            assert isinstance(probe, Probe)
            assert isinstance(echo, Echo)


def test_what_waited_goes_behind_hello():
    wire = pair(TUN)
    send(wire, "a", NOW)
    words = said(wire.tunnels["a"])
    assert [type(word[0]) for word in words[:2]] == [Hello, bytes]


def test_wireguard_has_no_control_channel():
    wire = joined(WIREGUARD)
    assert passes(wire, NOW + 30)
    assert peer_of(wire.tunnels["a"]).hello is None
    assert told(wire.tunnels["a"], Compared) == []
    wire.tunnels["a"].say_goodbye(NOW + 30)
    assert messages(wire.tunnels["a"], NOW + 30) == []
    assert association(wire.tunnels["a"]).slots.sessions() == []


def test_probes_give_the_round_trip_and_the_loss():
    wire = joined(TUN)
    peer = peer_of(wire.tunnels["a"])
    assert (peer.prober.round_trip, peer.prober.loss) == (0.0, 0.0)
    for number in range(1, 11):
        now = NOW + 10 * number
        wire.tunnels["a"].enqueue([TO_B], now)
        out = [message for _, message in messages(wire.tunnels["a"], now)]
        wire.deliver("a", "b", out, now + 0.04)
        wire.settle(now + 0.08, lost=lambda *_, number=number: number % 2 == 1)
        elapse(wire, now + 0.08, now + 10)
    assert peer.prober.round_trip == pytest.approx(0.08 * (1 - (7 / 8) ** 5))
    assert peer.prober.loss == 5 / 11


def test_a_probe_is_sent_once_in_ten_seconds_of_traffic():
    wire = joined(TUN)
    said(wire.tunnels["a"])
    for tenth in range(1, 600):
        send(wire, "a", NOW + tenth / 10)
    probes = [word for word in said(wire.tunnels["a"]) if isinstance(word[0], Probe)]
    assert len(probes) == 5


def test_settings_that_differ_are_told_at_both_ends_and_once():
    wire = Wire(
        a=end("a", {"b": ("10.0.0.2/32", "10.5.0.0/16", "::/0")}, profile=TUN),
        b=end("b", {"a": ("10.0.0.1/32", "10.5.0.0/16", "::/0")}, profile=TUN),
    )
    wire.tunnels["b"].max_packet = 1300
    point(wire.tunnels["a"], "b", Way("b"))
    for now in (NOW, NOW + 130, NOW + 260):
        association(wire.tunnels["a"]).initiate(now)
        wire.settle(now)
    for name, (ours, theirs) in {"a": (1400, 1300), "b": (1300, 1400)}.items():
        (compared,) = told(wire.tunnels[name], Compared)
        assert [difference.field for difference in compared.differences] == ["mtu", "allowed_ips"]
        assert f"{ours} here and {theirs} at the peer" in compared.differences[0].sentence
        assert "10.5.0.0/16" in compared.differences[1].sentence
    wire.tunnels["b"].max_packet = 1400
    association(wire.tunnels["a"]).initiate(NOW + 390)
    wire.settle(NOW + 390)
    for name in "ab":
        (compared,) = told(wire.tunnels[name], Compared)
        assert [difference.field for difference in compared.differences] == ["allowed_ips"]


def test_ends_that_agree_are_told_so():
    wire = pair(TAP)
    send(wire, "a", NOW)
    for tunnel in wire.tunnels.values():
        assert told(tunnel, Compared)[0].differences == ()


def restarted(wire, name, other, **settings):
    """The end is another process from now on: other random bytes, a later clock, and no session."""
    wire.tunnels[name] = end(
        name, {other: ("10.0.0.2/32" if name == "a" else "10.0.0.1/32",)}, profile=TUN, random=f"{name} again",
        floor=1_700_000_900.0, **settings,
    )  # fmt: skip
    point(wire.tunnels[name], other, Way(other))


@pytest.mark.parametrize("beginner", ["a", "b"])
def test_a_restart_of_the_peer_is_known_with_the_next_session(beginner):
    wire = joined(TUN)
    restarted(wire, "b", "a")
    association(wire.tunnels[beginner]).initiate(NOW + 10)
    wire.settle(NOW + 10)
    assert told(wire.tunnels["a"], Restarted) == [Restarted("b")]
    assert told(wire.tunnels["b"], Restarted) == []
    assert peer_of(wire.tunnels["a"]).prober.loss == 0.0
    association(wire.tunnels["a"]).initiate(NOW + 20)
    wire.settle(NOW + 20)
    assert told(wire.tunnels["a"], Restarted) == []


def sealed(wire, name, words, now, session=None):
    """A message of the end that holds these words, under its current keys or others."""
    session = session or association(wire.tunnels[name]).slots.current
    return session.seal_batch([peer_of(wire.tunnels[name]).payload.control(encode(words))], now)[0]


def test_hello_counts_once_in_a_session():
    wire = joined(TUN)
    hello = peer_of(wire.tunnels["a"]).hello
    for number in range(100):
        other = Hello(bytes([number]) * 8, number, "tun")
        wire.deliver("b", "a", [sealed(wire, "b", [other] * 16, NOW)], NOW)
    assert peer_of(wire.tunnels["a"]).hello == hello
    assert events(wire.tunnels["a"]) == []


def test_goodbye_ends_the_session_and_nobody_calls_before_there_is_something_to_say():
    wire = joined(TUN)
    b = wire.tunnels["b"]
    b.say_goodbye(NOW + 1)
    assert said(b)[-1] == [Goodbye()]
    wire.settle(NOW + 1)
    a = wire.tunnels["a"]
    assert told(a, SaidGoodbye) == [SaidGoodbye("b")]
    for tunnel in (a, b):
        assert association(tunnel).slots.sessions() == []
        assert tunnel.poll_timeout() is None
        assert len(tunnel._station.indices) == 0
    elapse(wire, NOW + 1, NOW + 100)
    assert wire.moments("a", MessageType.INITIATION) == [NOW]
    restarted(wire, "b", "a")
    assert passes(wire, NOW + 100)


def test_after_a_goodbye_the_persistent_keepalive_calls_again():
    wire = joined(TUN, keepalive=25.0)
    wire.tunnels["b"].say_goodbye(NOW + 1)
    wire.settle(NOW + 1)
    restarted(wire, "b", "a")
    elapse(wire, NOW + 1, NOW + 26.1)
    assert wire.moments("a", MessageType.INITIATION) == [NOW, NOW + 26]
    assert passes(wire, NOW + 27)


def test_a_late_goodbye_of_an_earlier_session_is_of_the_past():
    wire = joined(TUN)
    late = sealed(wire, "b", [Goodbye()], NOW)
    association(wire.tunnels["a"]).initiate(NOW + 10)
    wire.settle(NOW + 10)
    wire.deliver("b", "a", [late], NOW + 10)
    assert told(wire.tunnels["a"], SaidGoodbye) == []
    assert passes(wire, NOW + 10)


def test_a_late_goodbye_does_not_end_a_handshake_that_the_restarted_peer_began():
    wire = joined(TUN)
    late = sealed(wire, "b", [Goodbye()], NOW)
    restarted(wire, "b", "a")
    association(wire.tunnels["b"]).initiate(NOW + 1)
    ((_, initiation),) = messages(wire.tunnels["b"], NOW + 1)
    wire.deliver("b", "a", [initiation], NOW + 1)
    wire.deliver("b", "a", [late], NOW + 1)
    assert told(wire.tunnels["a"], SaidGoodbye) == [SaidGoodbye("b")]
    wire.settle(NOW + 1)
    assert told(wire.tunnels["a"], Established)
    assert passes(wire, NOW + 1)


@pytest.fixture(params=["first", "later"])
def crossed(request):
    """Two ends that began at once, or renewed at once: each seals in the session that it initiated itself."""
    wire = pair(TUN) if request.param == "first" else joined(TUN)
    for name in "ab":
        association(wire.tunnels[name]).initiate(NOW + 10)
    wire.settle(NOW + 10)
    a, b = (association(wire.tunnels[name]).slots for name in "ab")
    assert a.current.initiator
    assert b.current.initiator
    return wire


def test_ends_that_began_at_once_hear_of_each_others_settings(crossed):
    for name in "ab":
        assert peer_of(crossed.tunnels[name]).hello is not None
        assert peer_of(crossed.tunnels[name]).prober.round_trip == 0.0


def test_ends_that_began_at_once_hear_a_goodbye(crossed):
    crossed.tunnels["b"].say_goodbye(NOW + 11)
    crossed.settle(NOW + 11)
    assert told(crossed.tunnels["a"], SaidGoodbye) == [SaidGoodbye("b")]
    assert association(crossed.tunnels["a"]).slots.sessions() == []


def test_goodbye_over_a_stream_is_told_and_its_keys_are_gone():
    net = Cables(
        a=end("a", {"b": ("10.0.0.2/32",)}, profile=TCP, keepalive=25.0),
        b=end("b", {"a": ("10.0.0.1/32",)}, profile=TCP),
    )
    ours, theirs = net.connect("a", "b", NOW)
    net.settle(NOW)
    net.tunnels["b"].say_goodbye(NOW + 1)
    net.settle(NOW + 1)
    net.look("a")
    assert SaidGoodbye("b") in net.events["a"]
    for name, link in (("a", ours), ("b", theirs)):
        assert association(net.tunnels[name]).slots.sessions() == []
        assert net.refused[name] == []
        net.tunnels[name].close(link)
        assert len(net.tunnels[name]._station.indices) == 0


def test_control_messages_that_are_none_are_counted_and_harm_nothing():
    wire = joined(TUN)
    b = association(wire.tunnels["b"])
    payload = b.peer.payload
    for body in (b"\0\1\0\2xx", b"\0\x09\0\0", b"\0\2\0\1x", b"\xff" * 100):
        out = b.slots.current.seal_batch([payload.control(body)], NOW)
        wire.deliver("b", "a", out, NOW)
    told_of = {(event.reason, event.peer) for event in told(wire.tunnels["a"], Refused)}
    assert told_of == {(Reason.MALFORMED, "b"), (Reason.UNKNOWN_CONTROL, "b"), (Reason.TRUNCATED, "b")}
    assert passes(wire, NOW)


def test_an_echo_is_never_longer_than_its_probe_nor_more_of_them():
    wire = joined(TUN)
    for words in ([Probe(7)], [Probe(7, 500)], [Probe(number) for number in range(16)]):
        message = sealed(wire, "b", words, NOW)
        said(wire.tunnels["a"])
        wire.deliver("b", "a", [message], NOW)
        ((_, answer),) = messages(wire.tunnels["a"], NOW)
        assert len(answer) <= len(message)
        assert said(wire.tunnels["a"]) == [[Echo(word.identifier, word.size) for word in words]]


# Whose packets


def hub(profile=TUN, **settings):
    """b between a and c, who know nothing of each other."""
    b = end("b", {"a": ("10.0.0.1/32",), "c": ("10.0.0.3/32",)}, profile=profile, **settings)
    others = {name: end(name, {"b": ("0.0.0.0/0",)}, profile=profile, **settings) for name in "ac"}
    wire = Wire(b=b, **others)
    for name in "ac":
        point(others[name], "b", Way("b"))
        association(others[name]).initiate(NOW)
    wire.settle(NOW)
    return wire


def test_packets_go_to_their_peer_and_come_from_it():
    wire = hub()
    b = wire.tunnels["b"]
    to_a, to_c, to_nobody = (ipv4("10.0.0.2", target) for target in ("10.0.0.1", "10.0.0.3", "10.0.0.9"))
    b.enqueue([to_a, to_nobody, to_c, to_a], NOW)
    wire.settle(NOW)
    assert wire.received == {"a": [to_a, to_a], "b": [], "c": [to_c]}
    good, stolen = ipv4("10.0.0.1", "10.0.0.2"), ipv4("10.0.0.3", "10.0.0.2")
    wire.tunnels["a"].enqueue([stolen, good], NOW)
    wire.settle(NOW)
    assert wire.received["b"] == [good]
    refused = {(event.reason, event.peer, event.detail) for event in told(b, Refused)}
    assert refused == {(Reason.NO_ROUTE, "", to_nobody), (Reason.WRONG_SOURCE, "a", stolen)}
    assert b.drops == {Reason.NO_ROUTE: 1, Reason.WRONG_SOURCE: 1}


def frame(destination, source):
    return bytes.fromhex(destination + source) + b"\x08\x06" + bytes(46)


def test_frames_pass_from_peer_to_peer_through_a_third():
    wire = hub(TAP)
    broadcast, answer = frame("ffffffffffff", "02000000000a"), frame("02000000000a", "02000000000c")
    wire.tunnels["a"].enqueue([broadcast], NOW)
    wire.settle(NOW)
    assert wire.received == {"a": [], "b": [broadcast], "c": [broadcast]}
    wire.tunnels["c"].enqueue([answer], NOW)
    wire.settle(NOW)
    assert wire.received == {"a": [answer], "b": [broadcast], "c": [broadcast]}


def test_the_longest_packet_of_the_device_counts_its_ethernet_header():
    for profile, longest in ((TUN, 1300), (TAP, 1318)):
        tunnel = end("a", {"b": ()}, profile=profile)
        tunnel.max_packet = longest
        assert (tunnel.max_packet, peer_of(tunnel).payload.max_packet) == (longest, longest)
        assert tunnel._station.hello(()).mtu == 1300


def test_everything_that_was_dropped_is_counted_once_wherever_it_was_found():
    wire = joined(TUN)
    b = wire.tunnels["b"]
    wire.deliver("a", "b", [wire.seen[-1][2], wire.seen[0][2], b"noise"], NOW + 1)
    payload = peer_of(wire.tunnels["a"]).payload
    bad = association(wire.tunnels["a"]).slots.current.seal_batch([b"\x09", *payload.pack([b"no IP"])], NOW)
    wire.deliver("a", "b", bad, NOW + 1)
    expected = dict.fromkeys(
        (Reason.REPLAYED, Reason.OLD_TIMESTAMP, Reason.UNKNOWN_MESSAGE, Reason.UNKNOWN_KIND, Reason.TRUNCATED), 1
    )
    assert b.drops == expected
    association(b).forget()
    assert +b.drops == expected


def test_runs_are_of_one_session_and_handshake_messages_stand_alone():
    word = TUN.words[MessageType.DATA]
    first, second, other = word + b"1234" + b"x" * 30, word + b"5678" + b"y" * 30, b"\x81\1\0\0" + b"z" * 30
    batch = list(map(memoryview, (first, first, second, other, other, first, word, b"", word + b"12")))
    runs = [(head, len(run)) for head, run in runs_untrusted(batch, word)]
    assert runs == [
        (word + b"1234", 2), (word + b"5678", 1), (other[:8], 1), (other[:8], 1), (word + b"1234", 1), (word, 1),
        (b"", 1), (word + b"12", 1),
    ]  # fmt: skip


# Settings that differ


ALL = [WIREGUARD, *(tunneld_profile(t, m, c) for t in ("udp", "tcp") for m in MODES for c in CIPHERS)]


@pytest.mark.parametrize("theirs", ALL, ids=lambda profile: profile.prologue.decode())
def test_two_ends_that_differ_in_anything_have_no_session_and_the_responder_names_it(theirs):
    for ours in ALL:
        if ours is theirs:
            continue
        b = end("b", {"a": ()}, profile=ours)
        a = end("a", {"b": ("0.0.0.0/0",)}, profile=theirs)
        if b" tcp " in theirs.prologue:
            a.open(peer_of(a), Connection("a"), NOW)
        else:
            point(a, "b", Way("b"))
            association(a).initiate(NOW)
        ((_, initiation),) = messages(a, NOW)
        if b" tcp " in ours.prologue:
            with pytest.raises(BadPacket):
                b.accept_untrusted(Connection("b"), initiation, NOW)
        else:
            b.receive_untrusted(Way("a"), [memoryview(initiation)], NOW)
        assert messages(b, NOW) == []
        (refused,) = events(b)
        if ours.settings == theirs.settings:
            assert (refused.reason, refused.detail) == (Reason.BAD_INITIATION, None)
        else:
            assert (refused.reason, refused.detail) == (Reason.OTHER_SETTINGS, theirs.settings)


@pytest.mark.parametrize(("ours", "theirs"), [(PSK, bytes(32)), (bytes(32), PSK), (PSK, PSK[::-1])])
def test_another_preshared_key_is_known_to_both_ends(ours, theirs):
    wire = Wire(
        a=end("a", {"b": ("10.0.0.2/32",)}, profile=TUN, psk=ours),
        b=end("b", {"a": ("10.0.0.1/32",)}, profile=TUN, psk=theirs),
    )
    point(wire.tunnels["a"], "b", Way("b"))
    send(wire, "a", NOW)
    elapse(wire, NOW, NOW + 6)
    told_a = told(wire.tunnels["a"], (Initiated, Refused))
    assert told_a[-1] == Refused(Reason.BAD_RESPONSE, "b", Way("b"), None, 2)
    assert [event.attempt for event in told_a[:-1]] == [1, 2]
    assert told(wire.tunnels["b"], Unconfirmed) == [Unconfirmed("a", None, 2)]


# A hostile peer


def test_a_hostile_peer_neither_fills_memory_nor_touches_another_session():
    """It has its keys, and sends true messages with anything in them, from everywhere, as fast as it can."""
    wire, lots = hub(), random.Random(9)
    b = wire.tunnels["b"]
    victim = association(b, "c").slots.sessions()
    events(b)
    session = association(wire.tunnels["a"]).slots.current
    control = peer_of(wire.tunnels["a"]).payload
    for number in range(1500):
        now = NOW + number / 1000
        plaintext = lots.choice(
            (
                lots.randbytes(lots.randrange(1, 200)),
                bytes([lots.randrange(7)]) + lots.randbytes(60),
                control.control(encode([Probe(number)] * 16)),
                control.control(encode([Hello(lots.randbytes(8), number, "tun")] * 16)),
                control.control(lots.randbytes(60)),
                *control.pack([ipv4(f"10.0.0.{lots.randrange(9)}", "10.0.0.3", b"x" * 50)]),
            )
        )
        wire.deliver(f"a{number}", "b", session.seal_batch([plaintext], now), now)
        if number % 100 == 0:
            association(wire.tunnels["a"]).initiate(now)
            wire.deliver("a", "b", [message for _, message in messages(wire.tunnels["a"], now)], now)
        messages(b, now)
    assert len(events(b)) < 60
    assert len(b._station.indices) < 8
    assert association(b, "c").slots.sessions() == victim
    assert association(b, "c").link == Way("c")
    packet = ipv4("10.0.0.3", "10.0.0.2")
    wire.tunnels["c"].enqueue([packet], NOW + 2)
    wire.settle(NOW + 2)
    assert wire.received["b"][-1] == packet


def test_a_blocked_connection_gets_no_echo_and_keeps_no_other_peer_waiting():
    b = end("b", {"a": ("10.0.0.1/32",), "c": ("10.0.0.3/32",)}, profile=TCP)
    others = {name: end(name, {"b": ("10.0.0.2/32",)}, profile=TCP, keepalive=1.0) for name in "ac"}
    net = Cables(b=b, **others)
    for name in "ac":
        net.connect(name, "b", NOW)
    net.settle(NOW)
    association(b, "a").link.blocked = True
    before = len(association(b, "a").link.sent)
    for second in range(1, 1000):
        now = NOW + second / 10
        others["a"].handle_timeout(now)
        b.enqueue([ipv4("10.0.0.2", "10.0.0.1"), ipv4("10.0.0.2", "10.0.0.3")], now)
        net.settle(now)
    assert len(net.received["c"]) == 999
    assert +b.drops == {Reason.QUEUE_FULL: 999 - MAX_QUEUED_PACKETS}
    assert [said for said in others["a"].peers[0].payload.said if said and isinstance(said[0], Probe)][90:]
    # What a misses is an answer, so it asks for new keys every 15 s: a response, and HELLO and a probe.
    assert len(association(b, "a").link.sent) <= before + 3 * (100 // 15)
