"""Bugs that were found in other tunnels. Each test has the name under which its bug was published, and code that had
the bug would fail it.

    published as         found in      tested by
    CVE-2017-7478        OpenVPN       proto
    CVE-2017-7479        OpenVPN       proto
    CVE-2017-7508        OpenVPN       proto
    CVE-2018-16758       tinc          proto
    CVE-2020-11810       OpenVPN       proto, system
    CVE-2020-27638       fastd         proto
    CVE-2021-46873       WireGuard     proto
    CVE-2024-28882       OpenVPN       proto
    CVE-2024-5594        OpenVPN       proto, system
    CVE-2025-13086       OpenVPN       proto
    CVE-2025-24356       fastd         proto
    CVE-2025-2704        OpenVPN       proto
    RUSTSEC-2024-0011    snow          proto
    boringtun 489        boringtun     proto, system
    gotatun 159          GotaTun       proto, system
    firezone 13811       Firezone      proto, system
    tailscale rs 334     tailscale-rs  proto
    VORACLE              OpenVPN       proto
    RFC 7748             many          proto
    noise psk            many          proto
    simpletun            simpletun     proto

proto is this file; system is tests/system/test_published_bugs.py, with real daemons. CVE-2019-14899, CVE-2021-3773,
CVE-2023-35838, CVE-2023-36672 and CVE-2024-3661 are of routes, firewalls and NAT that this version does not make.

Two ends, a and b, speak as in ends.py; x is whoever attacks them.
"""

import random
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from cryptography.exceptions import InvalidTag

from tests.proto.ends import Way, Wire, end, events, ipv4, messages, point, public
from tests.proto.keys import LOW_ORDER, PSK, numbers
from tunneld.proto.const import REJECT_AFTER_MESSAGES
from tunneld.proto.controlchannel import HELLO, Hello, compare, decode_untrusted
from tunneld.proto.cookie import CookieChecker, CookieJar
from tunneld.proto.errors import Reason
from tunneld.proto.events import Established, Moved
from tunneld.proto.framing import StreamDecoder
from tunneld.proto.noise import CipherState
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.profile import CIPHERS, WIREGUARD, Cipher, MessageType, tunneld_profile
from tunneld.proto.tai64n import Stamper, StampGuard, stamp
from tunneld.proto.wire import COOKIE, RESPONSE, SENDER

TUN = tunneld_profile("udp", "tun", "chacha20-poly1305")
PACKET = ipv4("10.0.0.1", "10.0.0.2", b"from a to b")
ANSWER = ipv4("10.0.0.2", "10.0.0.1", b"from b to a")
NOW = 1000.0


@pytest.fixture(params=[WIREGUARD, TUN], ids=lambda profile: profile.settings)
def profile(request):
    return request.param


def strangers(profile, **settings):
    """Two ends that know each other and have not spoken."""
    a = end("a", {"b": ("10.0.0.2/32",)}, profile=profile, **settings)
    b = end("b", {"a": ("10.0.0.1/32",)}, profile=profile, **settings)
    point(a, "b", Way("b"))
    return Wire(a=a, b=b)


def friends(profile):
    """Two ends with a session, over which both have sent."""
    wire = strangers(profile)
    wire.tunnels["a"].enqueue([PACKET], NOW)
    wire.settle(NOW)
    wire.tunnels["b"].enqueue([ANSWER], NOW)
    wire.settle(NOW)
    assert wire.received == {"a": [ANSWER], "b": [PACKET]}
    return wire


def association(tunnel):
    (peer,) = tunnel.peers
    return peer.association


def initiation(tunnel, now=NOW):
    """The initiation that the tunnel sends when it has something to say."""
    tunnel.enqueue([PACKET], now)
    ((_, message),) = messages(tunnel, now)
    assert len(message) == 148
    return message


def given(tunnel, way, message, now=NOW):
    """What the tunnel says to one datagram."""
    tunnel.receive_untrusted(way, [memoryview(message)], now)
    return [answer for _, answer in messages(tunnel, now)]


def with_macs(body, receiver, jar=None, now=NOW):
    """The handshake message with MACs that fit, for whoever knows the receiver's public key."""
    return body + b"".join((jar or CookieJar(public(receiver))).macs(body, now))


def loaded(tunnel, message, now=NOW):
    """The tunnel after so many handshake messages that it asks senders to prove their address."""
    for _ in range(60):
        tunnel.receive_untrusted(Way("x"), [memoryview(message)], now)
    messages(tunnel, now)


def test_cve_2025_13086_openvpn_took_every_cookie_but_the_right_one(profile):
    checker, other = (CookieChecker(profile, public("b"), numbers(seed)) for seed in (1, 2))
    body = profile.words[MessageType.INITIATION] + numbers(3)(112)

    def answered(by, source, at):
        jar = CookieJar(public("b"))
        reply = by.create_reply_untrusted(with_macs(body, "b", jar, at), source, at)
        jar.consume_reply_untrusted(profile, reply, at)
        return with_macs(body, "b", jar, at)

    right = answered(checker, b"home:1", NOW)
    assert checker.proves_source_untrusted(right, b"home:1", NOW)
    assert not checker.proves_source_untrusted(answered(other, b"home:1", NOW), b"home:1", NOW)
    assert not checker.proves_source_untrusted(right[:-16] + bytes(16), b"home:1", NOW)
    assert not checker.proves_source_untrusted(right[:-16] + numbers(4)(16), b"home:1", NOW)
    assert not checker.proves_source_untrusted(right, b"home:2", NOW)
    assert not checker.proves_source_untrusted(right, b"away:1", NOW)
    assert not checker.proves_source_untrusted(right, b"home:1", NOW + 120)
    assert not checker.proves_source_untrusted(answered(other, b"home:1", NOW + 500), b"home:1", NOW)


@pytest.mark.volume
def test_tailscale_rs_334_forgot_its_handshake_for_a_forged_answer(profile):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    (response,) = given(b, Way("a"), sent)
    noise = numbers(5)
    (index,) = SENDER.unpack_from(sent)
    for number in range(1000):
        receiver = index if number % 2 else number
        body = RESPONSE.pack(profile.words[MessageType.RESPONSE], 1, receiver, noise(48), b"", b"")[:-32]
        cookie = COOKIE.pack(profile.words[MessageType.COOKIE], receiver, noise(24), noise(32))
        now = NOW + number / 250  # slowly enough for a not to be under load
        assert given(a, Way("b"), with_macs(body, "a"), now) == given(a, Way("b"), cookie, now) == []
    assert (a.drops[Reason.BAD_RESPONSE], a.drops[Reason.BAD_COOKIE], a.drops[Reason.UNEXPECTED_ANSWER]) == (
        500, 500, 1000,
    )  # fmt: skip
    wire.deliver("b", "a", [response], NOW)
    wire.settle(NOW)
    assert wire.received["b"] == [PACKET]


def test_boringtun_489_and_gotatun_159_moved_to_the_sender_of_a_cookie(profile):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    loaded(b, sent)
    (cookie,) = given(b, Way("a"), sent)
    assert len(cookie) == 64
    assert given(a, Way("x"), cookie) == []
    assert (association(a).link, a.drops[Reason.BAD_COOKIE]) == (Way("b"), 0)
    assert not [event for event in events(a) if isinstance(event, Moved)]


@dataclass(frozen=True)
class Way6(Way):
    """Where a datagram over IPv6 came from."""

    @property
    def ip(self):
        return b"\xfd" + self.name.encode().ljust(15, b"\0")


@pytest.mark.parametrize("way", [Way("a"), Way6("a")], ids=["ipv4", "ipv6"])
def test_firezone_13811_sent_no_cookie_as_it_did_not_know_the_source(profile, way):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    loaded(b, sent)
    (cookie,) = given(b, way, sent)
    assert given(a, Way("b"), cookie) == []
    a.handle_timeout(NOW + 6)
    ((_, again),) = messages(a, NOW + 6)
    loaded(b, sent, NOW + 6)
    assert [len(answer) for answer in given(b, Way("x"), again, NOW + 6)] == [64], (
        "from where the cookie was not sent"
    )
    assert [len(answer) for answer in given(b, way, again, NOW + 6)] == [92]


def junk(profile, choose, valid):
    """What a stranger may send: noise, or true messages that were cut, lengthened, changed or made for another."""
    for _ in range(3000):
        message = bytearray(choose.choice(valid))
        for _ in range(choose.randrange(4)):
            message[choose.randrange(len(message))] = choose.randrange(256)
        yield choose.choice(
            (
                choose.randbytes(choose.randrange(200)),
                bytes(message),
                bytes(message[: choose.randrange(len(message))]),
                bytes(message) + choose.randbytes(9),
                profile.words[choose.choice(list(MessageType))].ljust(choose.choice((32, 64, 92, 148)), b"\1"),
            )
        )


@pytest.mark.volume
@pytest.mark.parametrize("load", [False, True], ids=["idle", "loaded"])
def test_cve_2025_24356_fastd_answered_one_byte_with_150(profile, load):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    answers = given(b, Way("a"), sent)
    seen = set()
    for number, message in enumerate(junk(profile, random.Random(6), [sent, *answers])):
        now = NOW + 1 + number / (1000 if load else 1)
        if load and number % 500 == 0:
            loaded(b, sent, now)
        said = given(b, Way("x"), message, now)
        assert sum(map(len, said)) <= len(message)
        seen |= {len(answer) for answer in said}
    for size in range(65):
        assert given(b, Way("x"), sent[:size], NOW) == []
    assert seen == ({64} if load else set()), "and this would be seen"


def test_cve_2020_27638_fastd_crashed_by_a_type_that_is_none(profile):
    wire = friends(profile)
    b = wire.tunnels["b"]
    for kind in range(256):
        for size in (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 92, 148, 1500):
            assert given(b, Way("x"), bytes([kind]).ljust(size, b"\0")[:size]) == []
    wire.tunnels["a"].enqueue([PACKET], NOW)
    wire.settle(NOW)
    assert wire.received["b"] == [PACKET] * 2


def test_cve_2017_7478_openvpn_crashed_by_a_handshake_that_is_too_long(profile):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    for size in (149, 1500, 65_507):
        assert given(b, Way("a"), sent.ljust(size, b"\0")) == []
        assert given(b, Way("a"), with_macs(sent[:-32].ljust(size, b"\0"), "b")) == []
    assert len(given(b, Way("a"), sent)) == 1


def test_cve_2017_7508_openvpn_crashed_by_a_broken_ipv6_packet():
    bare = BarePayload(max_packet=1400)
    kinds = KindPayload(max_packet=1400, max_plaintext=1440, ethernet=False)
    whole = b"\x60" + bytes(3) + b"\x00\x14\x06\x40" + bytes(32) + bytes(20)
    broken = [whole[:size] for size in range(1, len(whole))]
    broken += [whole[:4] + struct.pack("!H", length) + whole[6:] for length in (21, 1361, 0xFFFF)]
    for packet in broken:
        assert not bare.unpack_untrusted([packet]).packets
        assert not kinds.unpack_untrusted([b"\x01" + struct.pack("!H", len(packet)) + packet]).packets
    assert sum(bare.drops.values()) == sum(kinds.drops.values()) == len(broken)
    assert bare.unpack_untrusted([whole]).packets == [whole]


@pytest.mark.volume
def test_cve_2025_2704_openvpn_crashed_by_true_and_broken_messages_in_turn(profile):
    wire = strangers(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    sent = initiation(a)
    choose = random.Random(7)
    for bad in junk(profile, choose, [sent]):
        given(b, Way("a"), bad, NOW)
    a.handle_timeout(NOW + 6)
    ((_, again),) = messages(a, NOW + 6)
    (response,) = given(b, Way("a"), again, NOW + 6)
    for bad in junk(profile, choose, [again, response[:-1]]):
        for tunnel, way in ((a, Way("b")), (b, Way("a"))):
            given(tunnel, way, bad, NOW + 6)
    wire.deliver("b", "a", [response], NOW + 6)
    wire.settle(NOW + 6)
    assert wire.received["b"] == [PACKET]


def test_cve_2017_7479_openvpn_crashed_when_its_counters_ended(profile):
    wire = friends(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    current = association(a).slots.current
    current._next = REJECT_AFTER_MESSAGES - 1
    later = NOW + 10
    a.enqueue([PACKET], later)
    a.enqueue([PACKET], later)
    assert current._next == REJECT_AFTER_MESSAGES
    assert current.seal_batch([b""], later) == []
    wire.settle(later)
    assert association(a).slots.current is not current
    a.enqueue([PACKET], later)
    wire.settle(later)
    assert wire.received["b"].count(PACKET) >= 3
    assert b.drops[Reason.FORGED] == 0


def test_cve_2020_11810_openvpn_floated_to_an_address_that_was_not_proved(profile):
    wire = friends(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    a.enqueue([PACKET], NOW)
    ((_, message), *_) = messages(a, NOW)
    damaged = message[:-1] + bytes([message[-1] ^ 1])
    old = [datagram for sender, _, datagram in wire.seen if sender == "a"]
    for datagram in (damaged, *old, message[:16] + bytes(16)):
        assert given(b, Way("x"), datagram, NOW + 1) == []
        assert association(b).link == Way("a")
    assert not [event for event in events(b) if isinstance(event, Moved) and event.link == Way("x")]
    wire.deliver("away", "b", [message], NOW)
    assert association(b).link == Way("away"), "new and authentic: the peer has moved"


def test_cve_2018_16758_tinc_could_be_talked_into_no_cipher():
    assert set(CIPHERS) == set(get_args(Cipher)) == {"chacha20-poly1305", "aes-256-gcm"}
    wire = friends(TUN)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    head = TUN.words[MessageType.DATA] + association(b).slots.current.local_index.to_bytes(4, "little")
    for plaintext in (PACKET, b"\x01" + struct.pack("!H", len(PACKET)) + PACKET):
        for tag in (b"", bytes(16)):
            wire.deliver("a", "b", [head + (99).to_bytes(8, "big") + plaintext + tag], NOW)
    assert wire.received["b"] == [PACKET]
    for parameters in range(1, 256):
        a.enqueue([PACKET], NOW)
        for _, message in messages(a, NOW):
            wire.deliver("a", "b", [message[:1] + bytes([parameters]) + message[2:]], NOW)
    assert wire.received["b"] == [PACKET]


def test_cve_2021_46873_wireguard_was_locked_out_by_a_clock_once_in_the_future():
    wire = strangers(TUN, floor=4_000_000_000.0)
    b = wire.tunnels["b"]
    assert len(given(b, Way("a"), initiation(wire.tunnels["a"]))) == 1
    corrected = initiation(strangers(TUN).tunnels["a"])
    assert given(b, Way("a"), corrected, NOW + 9) == []
    assert b.drops[Reason.OLD_TIMESTAMP] == 1
    assert len(given(strangers(TUN).tunnels["b"], Way("a"), corrected)) == 1, "a restart forgets"

    guard, stamper = StampGuard(), Stamper()
    guard.take_untrusted(stamper.next(4_000_000_000.0))
    guard.take_untrusted(Stamper(stamper.floor).next(1_700_000_000.0))
    guard.reset()
    guard.take_untrusted(stamp(1_700_000_000.0))


def test_cve_2024_5594_openvpn_logged_what_the_peer_wrote():
    ours = Hello(bytes(8), 1400, "tun")
    choose = random.Random(8)
    said = []
    for _ in range(5000):
        value = HELLO.pack(choose.randbytes(8), choose.getrandbits(16), choose.randrange(3), choose.randrange(4))
        value += bytes([choose.choice((4, 6)), 8]) + choose.randbytes(choose.randrange(1, 20))
        found, faults = decode_untrusted(b"\x00\x01" + struct.pack("!H", len(value)) + value)
        said += [difference.sentence for theirs in found for difference in compare(ours, theirs)]
        said += [fault.value for fault in faults]
    assert len(said) > 5000
    assert all(sentence.isascii() and sentence.isprintable() for sentence in said)


def test_cve_2024_28882_openvpn_kept_the_session_of_who_should_be_gone(profile):
    wire = friends(profile)
    a, b = wire.tunnels["a"], wire.tunnels["b"]
    gone = association(b)
    gone.forget()
    for seconds in (0, 1, 20, 100):
        a.enqueue([PACKET], NOW + seconds)
        data = [message for _, message in messages(a, NOW + seconds) if len(message) != 148]
        wire.deliver("a", "b", data, NOW + seconds)
        assert gone.poll_timeout() is None
    assert wire.received["b"] == [PACKET]
    assert b.drops[Reason.UNKNOWN_SESSION] >= 4
    assert gone.slots.sessions() == []


@pytest.mark.parametrize("cipher", ["ChaChaPoly", "AESGCM"])
def test_rustsec_2024_0011_snow_counted_messages_that_it_could_not_open(cipher):
    sender, receiver = CipherState(cipher, PSK), CipherState(cipher, PSK)
    sealed = sender.encrypt_with_ad(b"", b"text")
    for _ in range(3):
        with pytest.raises(InvalidTag):
            receiver.decrypt_with_ad(b"", bytes(len(sealed)))
    assert receiver.decrypt_with_ad(b"", sealed) == b"text"


def test_rfc_7748_a_zero_secret_opened_handshakes_to_everybody(profile):
    wire = strangers(profile)
    b = wire.tunnels["b"]
    sent = initiation(wire.tunnels["a"])
    for point_of_low_order in LOW_ORDER:
        assert given(b, Way("x"), with_macs(sent[:8] + point_of_low_order + sent[40:-32], "b")) == []
    assert b.drops == {Reason.UNUSABLE_KEY: len(LOW_ORDER)}
    assert len(given(b, Way("a"), sent)) == 1


@pytest.mark.parametrize("psks", [(PSK, bytes(32)), (bytes(32), PSK)], ids=["theirs-missing", "ours-missing"])
def test_noise_psk_another_or_none_was_taken_for_the_right_one(profile, psks):
    a = end("a", {"b": ("10.0.0.2/32",)}, profile=profile, psk=psks[0])
    b = end("b", {"a": ("10.0.0.1/32",)}, profile=profile, psk=psks[1])
    point(a, "b", Way("b"))
    wire = Wire(a=a, b=b)
    a.enqueue([PACKET], NOW)
    wire.settle(NOW)
    assert a.drops[Reason.BAD_RESPONSE] == 1
    assert not [event for tunnel in (a, b) for event in events(tunnel) if isinstance(event, Established)]


def test_voracle_a_compressed_packet_told_its_content_by_its_length(profile):
    wire = friends(profile)
    a = wire.tunnels["a"]
    sizes = set()
    for body in (bytes(1000), b"secret=" * 142 + b"secret", numbers(9)(1000)):
        a.enqueue([ipv4("10.0.0.1", "10.0.0.2", body)], NOW)
        sizes.add(tuple(len(message) for _, message in messages(a, NOW)))
    assert len(sizes) == 1


def test_simpletun_believed_the_length_that_a_stranger_wrote():
    decoder = StreamDecoder()
    size = len(decoder.space())
    decoder.space()[:2] = b"\xff\xff"
    assert decoder.received_untrusted(2) == []
    assert len(decoder.space()) == size - 2, "nothing was set aside for the 65,535 bytes"
    with pytest.raises(ValueError, match="cannot hold the longest record"):
        StreamDecoder(capacity=2000)


def test_the_table_above_has_the_bugs_that_are_tested_and_no_other():
    tests = Path(__file__).parent.parent
    rows = re.findall(r"^    (\S.*?)  +(\S+)  +((?:proto|system).*)$", __doc__, flags=re.M)
    for where in ("proto", "system"):
        source = (tests / where / "test_published_bugs.py").read_text()
        names = re.findall(r"^(?:async )?def test_(?!the_table)(\w+)", source, flags=re.M)
        words = {re.sub(r"\W", "_", bug.lower()) for bug, _, by in rows if where in by.split(", ")}
        assert [word for word in words if not any(word in name for name in names)] == []
        assert [name for name in names if not any(word in name for word in words)] == []
