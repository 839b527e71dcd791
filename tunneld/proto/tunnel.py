"""What the sealed tunnels over datagrams and over streams have in common: packets in, messages out, time.

The caller gives in packets and messages, and then asks until there is nothing left: `poll_transmit`, `poll_event`.
`poll_timeout` says when to call `handle_timeout`; a call that is late does no harm but what it is late for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tunneld.proto.association import Association
from tunneld.proto.const import ETHERNET_BYTES
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Detail, Event, Moved
from tunneld.proto.framing import Buffer
from tunneld.proto.handshake import ReceivedInitiation, consume_initiation_untrusted
from tunneld.proto.peer import Link, Peer
from tunneld.proto.profile import spoken_untrusted
from tunneld.proto.routing import Routing
from tunneld.proto.session import INDEX_END
from tunneld.proto.station import Station
from tunneld.proto.tai64n import seconds_between


class SealedTunnel:
    """The peers of one sealed tunnel. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, station: Station[Association], peers: Sequence[Peer], routing: Routing) -> None:
        self.peers = tuple(peers)
        self._station = station
        self._routing = routing
        self._by_key = {peer.remote.public: peer for peer in peers}

    @property
    def drops(self) -> Counter[Reason]:
        """All that was refused since the start, by reason."""
        total = self._station.ledger.drops.copy()
        for peer in self.peers:
            total.update(peer.payload.drops)
        for association in self._associations():
            for session in association.slots.sessions():
                total.update(session.drops)
        return total

    @property
    def max_packet(self) -> int:
        """The longest packet that the device takes, in bytes, Ethernet header included."""
        return self._station.mtu + (ETHERNET_BYTES if self._station.mode == "tap" else 0)

    @max_packet.setter
    def max_packet(self, most: int) -> None:
        self._station.mtu = most - (ETHERNET_BYTES if self._station.mode == "tap" else 0)
        for peer in self.peers:
            peer.payload.max_packet = most

    def attach(self, link: object) -> None:
        """A socket is carried from now on: nothing to do, the peers are known by what comes."""

    def close(self, link: object) -> None:
        """A socket is not carried any more."""

    def unblocked(self, link: object) -> None:
        """A link takes more again."""

    def enqueue(self, packets: Sequence[Buffer], now: float) -> None:
        """Send packets that the device gave. They are copied if they have to wait."""
        self._send(self._routing.divide(packets, now), now)

    def poll_transmit(self, now: float) -> tuple[Link, list[bytes]] | None:
        """Messages to be sent, and the link to send them over; None when that was all."""
        ready = self._station.ready
        while ready:
            association = next(iter(ready))
            messages = association.poll_transmit(now)
            if messages and association.link is not None:
                return association.link, messages
            del ready[association]
        return None

    def poll_event(self) -> Event | None:
        """What happened since the last call, oldest first; None when that was all."""
        if self._station.events:
            return self._station.events.popleft()
        if self._station.moved:
            return Moved(*self._station.moved.popitem())
        return self._station.ledger.poll_event()

    def poll_timeout(self) -> tuple[float, str] | None:
        """When `handle_timeout` is due, and why; None when nothing is."""
        deadlines = (association.poll_timeout() for association in self._associations())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for association in self._associations():
            association.handle_timeout(now)

    def say_goodbye(self, now: float) -> None:
        """Tell every peer that we shut down, and drop all keys."""
        for association in self._associations():
            association.say_goodbye(now)

    @abstractmethod
    def _associations(self) -> Iterable[Association]:
        """All that there are now; what is iterated over does not change meanwhile."""

    def _send(self, parts: Iterable[tuple[Peer, Sequence[Buffer]]], now: float) -> None:
        for peer, packets in parts:
            if peer.association is None:
                peer.wanted = True
                self._station.ledger.drops[Reason.NO_LINK] += len(packets)
            else:
                peer.association.enqueue(packets, now)

    def _admit_untrusted(self, packets: Sequence[memoryview], peer: Peer, now: float) -> Sequence[memoryview]:
        """Those of `packets` that the device is to get; what is for other peers is on its way."""
        if not packets:
            return packets
        device, others = self._routing.admit_untrusted(packets, peer, now)
        self._send(others, now)
        return device

    def _initiation_untrusted(self, link: Link, message: Buffer, now: float) -> tuple[Peer, ReceivedInitiation]:
        """Who wants new keys, be it a replay or not. Raises BadPacket, and the ledger knows of it then."""
        name = ""
        detail: Detail = None
        try:
            received = consume_initiation_untrusted(self._station.local, message, self._station.random)
            peer = self._by_key.get(received.static)
            if peer is None:
                detail = received.static
                raise BadPacket(Reason.UNKNOWN_PEER)
            name, detail = peer.name, seconds_between(received.timestamp, peer.last_stamp)
            peer.admit_initiation_untrusted(received.timestamp, now)
            peer.received_bytes += len(message)
        except BadPacket as bad:
            self._refuse_untrusted(bad.reason, link, message, peer=name, detail=detail)
            raise
        return peer, received

    def _refuse_untrusted(
        self, reason: Reason, link: Link | None, message: Buffer, *, peer: str = "", detail: Detail = None
    ) -> None:
        """Tell the ledger of a handshake message that was refused."""
        if reason is Reason.OTHER_SETTINGS:
            spoken = spoken_untrusted(message)
            detail = None if spoken is None else spoken[1]
        self._station.ledger.refuse(reason, link, peer=peer, detail=detail)


def runs_untrusted(messages: Sequence[memoryview], data_word: bytes) -> Iterator[tuple[bytes, Sequence[memoryview]]]:
    """`messages` in order, data messages for the same session together, with the type word and index of each run."""
    start, end = 0, len(messages)
    while start < end:
        head = bytes(messages[start][:INDEX_END])
        after = start + 1
        if head[:4] == data_word:
            while after < end and messages[after][:INDEX_END] == head:
                after += 1
        yield head, messages[start:after]
        start = after
