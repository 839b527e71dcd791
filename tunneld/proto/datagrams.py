"""The sealed tunnel over datagrams: every peer on one socket, told apart by the index in each message.

What comes from strangers is checked in this order, and each step costs more than the one before: length and type,
MAC1, under load the cookie and the rate of the address, the Noise message, the peer, the timestamp. Nothing is kept
and nothing is changed before the last. Strangers get no answer, but a cookie under load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tunneld.proto.association import Association
from tunneld.proto.cookie import CookieChecker
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.load import Load
from tunneld.proto.peer import Link as AnyLink
from tunneld.proto.peer import Peer
from tunneld.proto.profile import MessageType
from tunneld.proto.ratelimiter import RateLimiter
from tunneld.proto.routing import Routing
from tunneld.proto.station import Station
from tunneld.proto.tunnel import SealedTunnel, runs_untrusted
from tunneld.proto.wire import COOKIE, RESPONSE, classify_untrusted

# Whose an index is that we never gave.
NOBODY: Final = (None, None)


class Link(AnyLink, Protocol):
    """Where a datagram came from."""

    @property
    def ip(self) -> bytes:
        """The sender's address, 4 or 16 bytes."""

    @property
    def source(self) -> bytes:
        """The sender's address and port, for which a cookie is made; one form only for each."""


class DatagramTunnel(SealedTunnel):
    """All peers over one socket."""

    def __init__(self, station: Station[Association], peers: Sequence[Peer], routing: Routing) -> None:
        super().__init__(station, peers, routing)
        local = station.local
        self._data_word = local.profile.words[MessageType.DATA]
        self._cookies = CookieChecker(local.profile, local.static.public, station.random)
        self._limiter = RateLimiter()
        self._load = Load()
        self._answers: list[tuple[AnyLink, list[bytes]]] = []
        self._by_peer = {peer: Association(station, peer, link=None, stream=False) for peer in peers}
        for peer, association in self._by_peer.items():
            peer.association = association

    def poll_transmit(self, now: float) -> tuple[AnyLink, list[bytes]] | None:
        if self._answers:
            return self._answers.pop(0)
        return super().poll_transmit(now)

    def handle_timeout(self, now: float) -> None:
        super().handle_timeout(now)
        self._limiter.expire(now)

    def receive_untrusted(self, link: Link, messages: Sequence[memoryview], now: float) -> Sequence[memoryview]:
        """The packets for the device in `messages`, which came from `link` one after the other."""
        packets: list[memoryview] = []
        unknown = 0
        for head, run in runs_untrusted(messages, self._data_word):
            if head[:4] != self._data_word:
                self._handshake_untrusted(run[0], link, now)
                continue
            association, session = self._station.indices.find_untrusted(int.from_bytes(head[4:], "little")) or NOBODY
            if association is None or session is None:
                unknown += len(run)
            else:
                opened = association.receive_untrusted(session, run, link, now)
                packets += self._admit_untrusted(opened, association.peer, now)
        if unknown:
            self._station.ledger.refuse(Reason.UNKNOWN_SESSION, link, count=unknown)
        return packets

    def _handshake_untrusted(self, message: memoryview, link: Link, now: float) -> None:
        station = self._station
        try:
            kind = classify_untrusted(message, station.local.profile)
            if kind is MessageType.COOKIE:
                self._cookie_untrusted(message, now)
                return
            station.local.check_mac1_untrusted(message)
            if self._load.heavy(now):
                self._check_source_untrusted(message, link, now)
        except BadPacket as bad:
            self._refuse_untrusted(bad.reason, link, message)
            return
        if kind is MessageType.INITIATION:
            self._answer_untrusted(message, link, now)
        else:
            self._response_untrusted(message, link, now)

    def _check_source_untrusted(self, message: memoryview, link: Link, now: float) -> None:
        """Under load: raises BadPacket(NO_COOKIE), after a cookie was sent, or RATE_LIMITED."""
        if not self._cookies.proves_source_untrusted(message, link.source, now):
            self._put_answer(link, self._cookies.create_reply_untrusted(message, link.source, now))
            raise BadPacket(Reason.NO_COOKIE)
        if not self._limiter.allow(link.ip, now):
            raise BadPacket(Reason.RATE_LIMITED)

    def _answer_untrusted(self, message: memoryview, link: Link, now: float) -> None:
        try:
            peer, received = self._initiation_untrusted(link, message, now)
        except BadPacket:
            return
        answer = self._by_peer[peer].respond(received, now)
        peer.sent_bytes += len(answer)
        self._put_answer(link, answer)

    def _put_answer(self, link: Link, answer: bytes) -> None:
        """Send `answer` back, together with what else goes back there."""
        if self._answers and self._answers[-1][0] is link:
            self._answers[-1][1].append(answer)
        else:
            self._answers.append((link, [answer]))

    def _response_untrusted(self, message: memoryview, link: Link, now: float) -> None:
        receiver = RESPONSE.unpack(message)[2]
        name = ""
        try:
            association = self._waiting_untrusted(receiver)
            name = association.peer.name
            association.consume_response_untrusted(message, now)
        except BadPacket as bad:
            self._station.ledger.refuse(bad.reason, link, peer=name)

    def _cookie_untrusted(self, message: memoryview, now: float) -> None:
        receiver = COOKIE.unpack(message)[1]
        jar = self._waiting_untrusted(receiver).peer.remote.jar
        jar.consume_reply_untrusted(self._station.local.profile, message, now)

    def _waiting_untrusted(self, index: int) -> Association:
        """The association whose handshake has our index `index`. Raises BadPacket(UNEXPECTED_ANSWER)."""
        found = self._station.indices.find_untrusted(index)
        if found is None:
            raise BadPacket(Reason.UNEXPECTED_ANSWER)
        return found[0]

    def _associations(self) -> Iterable[Association]:
        return self._by_peer.values()
