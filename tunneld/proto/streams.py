"""The sealed tunnel over streams: one association for each connection, which ends with it.

A connection begins with a handshake: `open` on the side that connected, `accept_untrusted` on the other. Whatever is
refused on it afterwards is a reason to close it. What strangers say first is checked as over datagrams, but that a
budget stands in the place of cookies.

A peer's packets go over one connection. A new one takes its place when data was opened under its keys, or the peer
answered our handshake; a replayed initiation displaces nothing, since nobody can go on from it. If both ends
connected, the connection that the end with the smaller static public key opened stays, and the opener of the other
closes that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from tunneld.proto.association import Association
from tunneld.proto.budget import HandshakeBudget
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Moved, Superseded
from tunneld.proto.framing import Buffer
from tunneld.proto.peer import Conversation, Peer
from tunneld.proto.peer import Link as AnyLink
from tunneld.proto.profile import MessageType
from tunneld.proto.routing import Routing
from tunneld.proto.station import Station
from tunneld.proto.tunnel import SealedTunnel, runs_untrusted
from tunneld.proto.wire import classify_untrusted, expect_untrusted


class Link(AnyLink, Hashable, Protocol):
    """One connection."""

    @property
    def ip(self) -> bytes:
        """The address of the other end, 4 or 16 bytes."""


class StreamTunnel(SealedTunnel):
    """All peers, each over connections of its own."""

    def __init__(self, station: Station[Association], peers: Sequence[Peer], routing: Routing) -> None:
        super().__init__(station, peers, routing)
        self._data_word = station.local.profile.words[MessageType.DATA]
        self._connections: dict[object, Association] = {}
        self._budget = HandshakeBudget()

    def handle_timeout(self, now: float) -> None:
        super().handle_timeout(now)
        self._budget.expire(now)

    def open(self, peer: Peer, link: Link, now: float) -> None:
        """We connected: begin the handshake; the initiation is to be transmitted."""
        association = self._connections[link] = Association(self._station, peer, link=link, stream=True)
        association.opened_by_us = True
        association.initiate(now)

    def accept_untrusted(self, link: Link, message: Buffer, now: float) -> Peer:
        """The peer that connected, by the first message; the response is to be transmitted.

        It may still be a replay: the peer has proved itself when a data message was received. Raises BadPacket, after
        which nothing is known of the connection.
        """
        self._check_budget_untrusted(link, message, now)
        peer, received = self._initiation_untrusted(link, message, now)
        association = Association(self._station, peer, link=link, stream=True)
        self._connections[link] = association
        association.answer(received, now)
        return peer

    def established(self, link: Link) -> bool:
        """Whether the connection carries the packets of its peer, or has carried some."""
        return link in self._connections and self._connections[link].established

    def receive_untrusted(self, link: Link, messages: Sequence[memoryview], now: float) -> Sequence[memoryview]:
        """The packets for the device in `messages`. Raises BadPacket: the connection is to be closed."""
        association = self._connections[link]
        packets: list[memoryview] = []
        for head, run in runs_untrusted(messages, self._data_word):
            if head[:4] == self._data_word:
                packets += self._data_untrusted(association, head, run, now)
            else:
                self._handshake_untrusted(association, run[0], now)
        return packets

    def unblocked(self, link: object) -> None:
        """The connection takes more again."""
        if link in self._connections:
            self._connections[link].unblocked()

    def close(self, link: object) -> None:
        """The connection is gone, and its keys with it. Harmless when it was not known."""
        association = self._connections.pop(link, None)
        if association is None:
            return
        association.forget()
        self._station.ready.pop(association, None)
        peer = association.peer
        if peer.association is association:
            peer.association = None
            for other in self._connections.values():
                if other.peer is peer and other.established:
                    self._carry(other)

    def _check_budget_untrusted(self, link: Link, message: Buffer, now: float) -> None:
        """Raises BadPacket before anything costly is done: by length and type word, BAD_MAC1, RATE_LIMITED."""
        local = self._station.local
        try:
            expect_untrusted(message, local.profile, MessageType.INITIATION)
            local.check_mac1_untrusted(message)
            if not self._budget.allow(link.ip, now):
                raise BadPacket(Reason.RATE_LIMITED)
        except BadPacket as bad:
            self._refuse_untrusted(bad.reason, link, message)
            raise

    def _data_untrusted(
        self, association: Association, head: bytes, messages: Sequence[memoryview], now: float
    ) -> Sequence[memoryview]:
        owner, session = self._station.indices.find_untrusted(int.from_bytes(head[4:], "little")) or (None, None)
        if owner is not association or session is None or association.link is None:
            raise self._refused(association, Reason.UNKNOWN_SESSION)
        packets = association.receive_untrusted(session, messages, association.link, now)
        self._establish(association)
        return self._admit_untrusted(packets, association.peer, now)

    def _handshake_untrusted(self, association: Association, message: memoryview, now: float) -> None:
        """New keys within the connection, or the answer to our first initiation."""
        link, local = association.link, self._station.local
        assert link is not None
        try:
            kind = classify_untrusted(message, local.profile)
        except BadPacket as bad:
            raise self._refused(association, bad.reason) from None
        if kind is MessageType.INITIATION and not association.established:
            raise self._refused(association, Reason.UNKNOWN_MESSAGE)
        if kind is MessageType.INITIATION and association.waits and association.opened_by_us:
            return  # two have crossed, and ours counts
        if kind is MessageType.INITIATION:
            peer, received = self._initiation_untrusted(link, message, now)
            if peer is not association.peer:
                raise self._refused(association, Reason.UNEXPECTED_ANSWER)
            association.drop_initiation()
            association.answer(received, now)
            return
        try:
            association.consume_response_untrusted(message, now)
        except BadPacket as bad:
            raise self._refused(association, bad.reason) from None
        self._establish(association)

    def _establish(self, association: Association) -> None:
        """Both ends have keys on this connection: it may be the one that the peer's packets go over."""
        if not association.established and association.slots.current is not None:
            association.established = True
            self._carry(association)

    def _carry(self, association: Association) -> None:
        """Let `association` carry the packets of its peer, unless another has to; say which are to be closed."""
        peer = association.peer
        if peer.association is None or self._stays(association, peer.association):
            peer.association = association
        # A handshake on the other one may have been told of last.
        self._station.events.append(Moved(peer.name, peer.association.link))
        for other in self._connections.values():
            if other.peer is not peer or not other.established or other is peer.association:
                continue
            # What the peer has opened is its own to close, but for the older of two: it could open any number.
            if other.opened_by_us or not (association.opened_by_us or other is association):
                self._station.events.append(Superseded(peer.name, other.link))

    def _stays(self, new: Association, old: Conversation) -> bool:
        """Of two by the same end the newer one; else that of the end with the smaller static public key."""
        if new.opened_by_us == old.opened_by_us:
            return True
        return new.opened_by_us == (self._station.local.static.public < new.peer.remote.public)

    def _refused(self, association: Association, reason: Reason) -> BadPacket:
        self._station.ledger.refuse(reason, association.link, peer=association.peer.name)
        return BadPacket(reason)

    def _associations(self) -> Iterable[Association]:
        return list(self._connections.values())
