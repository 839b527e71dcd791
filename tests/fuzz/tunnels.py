"""Two ends of a sealed tunnel with an attacker between them, for the parsers that need keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from tests.fuzz.damage import damaged, turned
from tests.fuzz.plaintexts import true_plaintexts
from tests.proto.ends import Connection, Way, end, ipv4, messages, point, private, public
from tunneld.proto.cookie import CookieJar
from tunneld.proto.errors import BadPacket
from tunneld.proto.handshake import Local, Remote, create_initiation
from tunneld.proto.profile import CIPHERS, MODES, WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.tai64n import stamp

DATAGRAM_PROFILES = [WIREGUARD, *(tunneld_profile("udp", mode, cipher) for mode in MODES for cipher in CIPHERS)]
STREAM_PROFILES = [tunneld_profile("tcp", mode, cipher) for mode in MODES for cipher in CIPHERS]

PLAINTEXTS = list(true_plaintexts())

BEGAN = 1000.0
# When a asks for new keys, so that every kind of message is expected by somebody.
LATER = BEGAN + 125


class Pair:
    """Ends a and b, who have a session and are about to make another one.

    What they said lies in `true`, and what has come of it in `received`: all but the response that a waits for, and a
    cookie.
    """

    def __init__(self, choose: Random, profile) -> None:
        self.choose = choose
        self.profile = profile
        self.a = end("a", {"b": ("10.0.0.2/32",)}, profile=profile)
        self.b = end("b", {"a": ("10.0.0.1/32",)}, profile=profile)
        self.true: list[bytes] = []
        self.received: list[bytes] = []
        self.now = LATER
        self.count = 0
        packet = ipv4("10.0.0.1", "10.0.0.2", b"a packet")
        frame = b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00" + packet
        self.packet = frame if " tap " in f"{profile.settings} " else packet
        self.response = b""

    @classmethod
    def over_datagrams(cls, choose: Random) -> Pair:
        pair = cls(choose, choose.choice(DATAGRAM_PROFILES))
        pair.ways = {"a": Way("a"), "b": Way("b")}
        point(pair.a, "b", pair.ways["b"])
        pair._begin(BEGAN)
        pair._begin_again()
        pair.received += [pair._unknown(name) for name in "ab"]
        return pair

    @classmethod
    def over_streams(cls, choose: Random) -> Pair:
        pair = cls(choose, choose.choice(STREAM_PROFILES))
        pair.ways = {"a": Connection("a"), "b": Connection("b")}
        pair.a.open(pair.a.peers[0], pair.ways["b"], BEGAN)
        ((_, initiation),) = messages(pair.a, BEGAN)
        pair.true.append(initiation)
        pair.b.accept_untrusted(pair.ways["a"], initiation, BEGAN)
        pair._settle(BEGAN)
        pair._begin(BEGAN)
        pair._begin_again()
        return pair

    @property
    def in_use(self) -> bool:
        return self.b.peers[0].association is not None and self.b.peers[0].association.slots.current is not None

    def receive_from_stranger(self) -> None:
        """One datagram from elsewhere: no packet comes of it, no more bytes than it had, and nothing moves."""
        receiver = self.choose.choice("ab")
        tunnel = getattr(self, receiver)
        replay = self.choose.random() < 0.05
        message = self.choose.choice(self.received) if replay else self._forged(receiver)
        # Now slowly, now so fast that the ends are under load.
        self.count += 1
        self.now += 0.01 if self.count // 1000 % 2 else 0.0001
        assert tunnel.receive_untrusted(Way("x"), [memoryview(message)], self.now) == []
        answers = [answer for link, answer in messages(tunnel, self.now) if link == Way("x")]
        assert sum(map(len, answers)) <= len(message)
        assert tunnel.peers[0].association.link == self.ways["b" if receiver == "a" else "a"]

    def receive_on_connection(self) -> None:
        """A first message on a new connection, which is refused, or one on that in use, of which nothing comes."""
        receiver = self.choose.choice("ab")
        tunnel = getattr(self, receiver)
        message = memoryview(self._forged(receiver))
        self.now += 0.001
        known = len(tunnel._connections)
        if self.choose.random() < 0.5:
            assert refused(tunnel.accept_untrusted, Connection("x"), message, self.now)
        else:
            way = self.ways["b" if receiver == "a" else "a"]
            # If two initiations cross, that of the end that connected is passed over, and not refused.
            assert refused(tunnel.receive_untrusted, way, [message], self.now) or message[0] & 0x7F == 1
        assert len(tunnel._connections) == known

    def receive_from_hostile_peer(self) -> None:
        """A data message, by a, of anything: what b gives to its device is fit for it and from a."""
        session = self.a.peers[0].association.slots.current
        choose = self.choose
        plaintext = damaged(choose, choose.choice(PLAINTEXTS), PLAINTEXTS)
        (message,) = session.seal_batch([plaintext], self.now)
        if choose.random() < 0.2:
            message = damaged(choose, message, self.true)
        packets = self.b.receive_untrusted(self.ways["a"], [memoryview(message)], self.now)
        for packet in packets:
            assert len(packet) <= self.b.max_packet
            assert self.packet[0] != 0x45 or (packet[0] >> 4, packet[12:16]) == (4, b"\x0a\x00\x00\x01")
        # An echo is no longer than its probe; beside it only what b would say anyway.
        assert sum(len(answer) for _, answer in messages(self.b, self.now)) <= len(message) + 2 * 1500

    def finish(self) -> None:
        """After all that the ends go on as if nothing had been."""
        if self.response:
            self._receive("a", self.response, self.now)
            self._settle(self.now)
        self.a.enqueue([self.packet], self.now)
        assert [self.packet] == self._settle(self.now)[-1:]

    def outcomes(self) -> Counter[str]:
        """What was refused, by reason."""
        return Counter({reason.value: count for reason, count in (self.a.drops + self.b.drops).items()})

    def _begin(self, now: float) -> None:
        self.a.enqueue([self.packet], now)
        assert self._settle(now) == [self.packet]

    def _begin_again(self) -> None:
        """a seals with keys that are 125 s old, and asks for new ones; b's answer is held back."""
        self.a.enqueue([self.packet], LATER)
        for _, message in messages(self.a, LATER):
            self.true.append(message)
            self._receive("b", message, LATER)
        for _, message in messages(self.b, LATER):
            self.true.append(message)
            if len(message) == 92:
                self.response = message
            else:
                self._receive("a", message, LATER)
        self.true.append(self.profile.words.get(MessageType.COOKIE, b"\x83\0\0\0") + self.response[8:12] + bytes(56))
        assert self.response

    def _unknown(self, receiver: str) -> bytes:
        """A true initiation of somebody who is no peer."""
        return create_initiation(
            Local(self.profile, private("x")),
            Remote(public(receiver)),
            sender=1,
            timestamp=stamp(1_800_000_000.0),
            now=LATER,
            random=self.choose.randbytes,
        ).message

    def _settle(self, now: float) -> list[bytes]:
        """Carry messages until nobody has anything to say; the packets that b was given."""
        packets = []
        while under_way := [(name, m) for name in "ab" for _, m in messages(getattr(self, name), now)]:
            for sender, message in under_way:
                self.true.append(message)
                packets += self._receive("b" if sender == "a" else "a", message, now)
        return packets

    def _receive(self, receiver: str, message: bytes, now: float) -> list[bytes]:
        tunnel, way = getattr(self, receiver), self.ways["b" if receiver == "a" else "a"]
        self.received.append(message)
        return list(map(bytes, tunnel.receive_untrusted(way, [memoryview(message)], now)))

    def _forged(self, receiver: str) -> bytes:
        """Noise, or a true message that was damaged; often with MACs that fit."""
        choose = self.choose
        handshakes = [message for message in self.true if len(message) in (64, 92, 148)]
        while True:
            way = choose.random()
            if way < 0.1:
                return choose.randbytes(choose.randrange(200))
            if way < 0.5:
                message = turned(choose, choose.choice(handshakes))
            else:
                message = damaged(choose, choose.choice(self.true), self.true)
            if len(message) in (92, 148) and choose.random() < 0.7:
                body = message[:-32]
                message = body + b"".join(CookieJar(public(receiver)).macs(body, 0.0))
            if not self._is_true(message):
                return message

    def _is_true(self, message: bytes) -> bool:
        """Whether this is a true message but for the sender's index and the MACs, which Noise does not know of."""
        start, end = {148: (8, 116), 92: (12, 60)}.get(len(message), (0, len(message)))
        return any(
            message[start:end] == true[start:end] and message[:4] == true[:4]
            for true in self.true
            if len(true) == len(message)
        )


def refused(receive: Callable[..., object], *arguments: object) -> bool:
    """Whether a tunnel refuses what it is given; if not, it has made nothing of it."""
    try:
        assert receive(*arguments) == []
    except BadPacket:
        return True
    return False
