"""The handshakes and sessions with one peer over one link: for good over UDP, for one connection over TCP.

Theory of operation

- Packets are sealed at once if there is a session; else they are staged, and a handshake begins. Over a connection
  that takes no more they wait unsealed, since a sealed message that is not sent would leave a gap in the counters.
- Handshake messages that come are given in by the tunnel, which knows strangers; data messages by the session that
  their index names. What a message changes is changed after it was authenticated.
- The link moves to where authentic, new data came from, and at nothing else. An initiation, which may be a replay, is
  answered where it came from, and moves nothing.
- A session of ours is in use at once; one that the peer began, when the first message was opened with it (KeySlots).
- With a control channel, HELLO and a probe are the first that is sent under new keys. They serve as the message that
  confirms them, where WireGuard sends an empty one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunneld.proto import events, handshake
from tunneld.proto.const import KEEPALIVE_TIMEOUT, MAX_TIMER_HANDSHAKES, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT
from tunneld.proto.controlchannel import ControlMessage, Echo, Goodbye, Hello, Probe, decode_untrusted, encode
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.handshake import ReceivedInitiation, SentInitiation, TransportKeys
from tunneld.proto.keyslots import KeySlots
from tunneld.proto.payload import KEEPALIVE, KindPayload
from tunneld.proto.peer import Link, Peer
from tunneld.proto.replay import ReplayWindow, Succession
from tunneld.proto.session import OVERHEAD_BYTES, Session
from tunneld.proto.staging import Staging, portion
from tunneld.proto.station import Station
from tunneld.proto.timers import Timer, Timers


class Association:
    """One peer over one link. Times are CLOCK_BOOTTIME seconds.

    `link` is None over UDP while nobody knows where the peer is. `stream` says that messages arrive once,
    whole and in order; then a message that is refused raises BadPacket, and the connection is to be closed.
    Of a connection, `opened_by_us` says who connected, and `established` whether both ends ever had keys on it.
    """

    def __init__(self, station: Station[Association], peer: Peer, *, link: Link | None, stream: bool) -> None:
        self.peer = peer
        self.link = link
        self.slots = KeySlots()
        self.opened_by_us = False
        self.established = False
        self._station = station
        self._stream = stream
        self._timers = Timers(persistent_keepalive=peer.keepalive, jitter=station.jitter)
        self._sent: SentInitiation | None = None
        self._initiated = float("-inf")
        self._retries = 0
        self._unanswered = 0
        self._responses = 0
        self._last_minute = False
        self._greeted: int | None = None
        self._staged = Staging()
        self._outbox: list[bytes] = []
        # Whether sealed messages wait, as a link that gets more than it can keep drops the rest.
        self._kept = False

    # Packets out

    def enqueue(self, packets: Sequence[Buffer], now: float) -> None:
        """Send `packets`, or keep copies of them until that is possible."""
        session, drops = self.slots.sealing(now), self._station.ledger.drops
        if self.link is None:
            drops[Reason.NO_PEER] += len(packets)
        elif session is None:
            drops[Reason.NO_SESSION] += self._staged.stage(packets)
            self.initiate(now)
        elif self._staged or self.link.blocked:
            drops[Reason.QUEUE_FULL] += self._staged.queue(packets)
            self.unblocked()
        else:
            self._seal(session, packets, now)

    def call(self, now: float) -> bool:
        """Let the peer hear from us under the keys there are; False, and nothing is sent, if there are none."""
        if self.slots.sealing(now) is None:
            return False
        self._keep_alive(now, probe=True)
        return True

    def poll_transmit(self, now: float) -> list[bytes]:
        """The next messages for `link`, in order; ask again until there are none."""
        if self._kept and self.link is not None and self.link.blocked:
            return []
        if not self._outbox and self._staged and self.link is not None and not self.link.blocked:
            session = self.slots.sealing(now)
            if session is not None:
                self._seal(session, self._staged.portion(), now)
        messages, self._outbox = self._outbox, []
        if self._stream:
            count = portion(messages)
            messages, self._outbox = messages[:count], messages[count:]
            self._kept = bool(self._outbox)
        self.peer.sent_bytes += sum(map(len, messages))
        return messages

    def unblocked(self) -> None:
        """The link takes more again."""
        if self._staged or self._kept:
            self._station.ready[self] = None

    def say_goodbye(self, now: float) -> None:
        """We shut down: tell the peer, if there is a session, and drop it."""
        session = self.slots.sealing(now)
        if session is not None and self._station.control:
            self._seal_control(session, [Goodbye()], now)
        self.forget()

    # Handshakes

    def initiate(self, now: float) -> None:
        """Ask for new keys, unless that was done less than 5 s ago or nobody knows where to ask."""
        self._retries = 0
        self._initiate(now)

    def _initiate(self, now: float) -> None:
        if self.link is None or now - self._initiated < REKEY_TIMEOUT or (self._stream and self.waits):
            return
        station = self._station
        self.drop_initiation()
        self._sent = handshake.create_initiation(
            station.local,
            self.peer.remote,
            sender=station.indices.reserve(self),
            timestamp=station.stamp(),
            now=now,
            random=station.random,
        )
        self._initiated = now
        self._unanswered += 1
        self._put([self._sent.message])
        self._timers.handshake_initiated(now, REKEY_ATTEMPT_TIME if self._stream else REKEY_TIMEOUT)
        station.events.append(events.Initiated(self.peer.name, self.link, self._unanswered))

    @property
    def waits(self) -> bool:
        """Whether an initiation of ours is without an answer."""
        return self._sent is not None

    def drop_initiation(self) -> None:
        """Expect no answer any more; harmless if none is expected."""
        if self._sent is not None:
            self._station.indices.free(self._sent.sender)
            self._sent = None
        self._timers.handshake_complete()

    def consume_response_untrusted(self, message: Buffer, now: float) -> None:
        """Finish our handshake. Raises BadPacket, and then goes on waiting."""
        if self._sent is None:
            raise BadPacket(Reason.UNEXPECTED_ANSWER)
        sent = self._sent
        keys = handshake.consume_response_untrusted(self._station.local, sent, message)
        self._sent = None
        self.peer.received_bytes += len(message)
        session = self._install(keys, sent.sender, now, initiator=True)
        self._timers.any_received(now)
        self._complete(session, now)

    def respond(self, received: ReceivedInitiation, now: float) -> bytes:
        """The answer to an initiation of the peer, to be sent where that came from."""
        station = self._station
        index = station.indices.reserve(self)
        message, keys = handshake.create_response(station.local, self.peer.remote, received, sender=index, now=now)
        self._install(keys, index, now, initiator=False)
        self._timers.any_received(now)
        self._timers.any_sent(now)
        self._responses += 1
        if self._responses > 1:
            station.events.append(events.Unconfirmed(self.peer.name, self.link, self._responses))
        return message

    def answer(self, received: ReceivedInitiation, now: float) -> None:
        """Answer an initiation of the peer over our own link."""
        self._put([self.respond(received, now)])

    # Messages in

    def receive_untrusted(
        self, session: Session, messages: Sequence[Buffer], link: Link, now: float
    ) -> Sequence[memoryview]:
        """The packets in data messages of `session`, a session of ours, that came over `link`.

        Raises BadPacket if one was refused on a stream, but for the age of its keys.
        """
        before = session.drops.copy() if self._stream else None
        opened = session.open_batch_untrusted(messages, now)
        if before is not None and opened.refused and session.alive(now):
            raise BadPacket(next(iter(session.drops - before)))
        if opened.latest is None:
            return ()
        peer = self.peer
        peer.latest_received = now
        peer.received_bytes += sum(map(len, opened.plaintexts)) + OVERHEAD_BYTES * len(opened.plaintexts)
        self._move(link)
        if session is self.slots.next:
            self._free(self.slots.confirm())
            self._complete(session, now)
        if session is self.slots.current:
            self.slots.heard = True
        unpacked = peer.payload.unpack_untrusted(opened.plaintexts, None if self._stream else opened.counters)
        if unpacked.packets:
            self._timers.data_received(now)
        else:
            self._timers.any_received(now)
        self._refresh_receiving(now)
        for body in unpacked.control:
            self._control_untrusted(body, session, now)
        return unpacked.packets

    # Time

    def poll_timeout(self) -> tuple[float, str] | None:
        """When something is due, and why; None when nothing is."""
        deadlines = [at for at in (self._timers.poll_timeout(), self.slots.poll_timeout()) if at is not None]
        return min(deadlines, default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.handle_timeout(now):
            if timer is Timer.RETRANSMIT_HANDSHAKE:
                self._retry(now)
            elif timer is Timer.NEW_HANDSHAKE:
                completed, data = self.peer.latest_handshake, self.peer.latest_received
                answered = completed is not None and (data is None or data < completed)
                self._station.events.append(events.Unanswered(self.peer.name, answered))
                self.initiate(now)
            else:
                self._keep_alive(now, probe=timer is Timer.PERSISTENT_KEEPALIVE)
        gone = self.slots.handle_timeout(now)
        if gone:
            self._free(gone)
            self._station.events.append(events.Forgotten(self.peer.name))

    def forget(self) -> None:
        """Drop all keys and all that waits for some."""
        self._drop(self.slots.forget())

    # Within

    def _seal(self, session: Session, packets: Sequence[Buffer], now: float) -> None:
        peer = self.peer
        messages = session.seal_batch(peer.payload.pack(packets), now)
        if not messages:  # so near to the limit of counters that the batch does not fit
            self.initiate(now)
            return
        self._put(messages)
        self._timers.data_sent(now)
        self._renew_if_due(session, now)
        if self._station.control and peer.prober.due(now):
            self._seal_control(session, [peer.prober.probe(now)], now)

    def _seal_control(self, session: Session, messages: Iterable[ControlMessage], now: float) -> None:
        payload = self.peer.payload
        assert isinstance(payload, KindPayload), "who has a control channel has kinds"
        self._put(session.seal_batch([payload.control(encode(messages))], now))
        self._timers.any_sent(now)

    def _keep_alive(self, now: float, *, probe: bool) -> None:
        session = self.slots.sealing(now)
        if session is None:
            self.initiate(now)
        elif probe and self._station.control:
            self._seal_control(session, [self.peer.prober.probe(now)], now)
            self._timers.data_sent(now)
        elif not self._staged:
            self._put(session.seal_batch([KEEPALIVE], now))
            self._timers.any_sent(now)
        if session is not None:
            self._renew_if_due(session, now)

    def _renew_if_due(self, session: Session, now: float) -> None:
        # Two ends that began at once would renew at once ever after, and each time lose what is under way.
        waits = self.slots.crossed and self._station.local.static.public > self.peer.remote.public
        if session.rekey_due_sending(now - KEEPALIVE_TIMEOUT if waits else now):
            self.initiate(now)

    def _retry(self, now: float) -> None:
        if self._stream:
            assert self.link is not None
            self._station.events.append(events.Stalled(self.peer.name, self.link))
            return
        if self._retries < MAX_TIMER_HANDSHAKES:
            self._retries += 1
            self._initiate(now)
            return
        attempts = self._unanswered
        self.drop_initiation()
        self._purge()
        self._retries = self._unanswered = 0
        self._station.events.append(events.GaveUp(self.peer.name, attempts))

    def _install(self, keys: TransportKeys, index: int, now: float, *, initiator: bool) -> Session:
        session = Session(
            self._station.local.profile,
            sending_key=keys.send,
            receiving_key=keys.receive,
            local_index=index,
            remote_index=keys.receiver,
            initiator=initiator,
            born=now,
            received=Succession() if self._stream else ReplayWindow(),
        )
        self._station.indices.bind(session)
        self._free(self.slots.install(session))
        return session

    def _complete(self, session: Session, now: float) -> None:
        """Both ends have the keys of `session`, which is current."""
        peer, station = self.peer, self._station
        first = self.slots.previous is None
        self._retries = self._unanswered = self._responses = 0
        self._last_minute = False
        self._timers.handshake_complete()
        peer.latest_handshake = now
        station.events.append(events.Established(peer.name, self.link, session.initiator, first))
        if station.control:
            self._seal_control(session, [station.hello(peer.allowed_ips), peer.prober.probe(now)], now)
        elif session.initiator and not self._staged:
            self._put(session.seal_batch([KEEPALIVE], now))
            self._timers.any_sent(now)
        self.unblocked()

    def _refresh_receiving(self, now: float) -> None:
        current = self.slots.current
        if current is not None and not self._last_minute and current.rekey_due_receiving(now):
            self._last_minute = True
            self.initiate(now)

    def _move(self, link: Link) -> None:
        before = self.link
        if self.peer.pin_endpoint and before is not None:
            return
        self.link = link
        if link is not before and link != before:
            self._station.moved[self.peer.name] = link

    def _control_untrusted(self, body: Buffer, session: Session, now: float) -> None:
        messages, faults = decode_untrusted(body)
        for fault in faults:
            self._station.ledger.refuse(fault, self.link, peer=self.peer.name)
        latest = session is self.slots.current or self.slots.crossed
        echoes: list[ControlMessage] = []
        for message in messages:
            if isinstance(message, Probe):
                echoes.append(Echo(message.identifier, message.size))
            elif isinstance(message, Echo):
                self.peer.prober.echoed_untrusted(message, now)
            elif not latest:
                continue  # what it says is of the past
            elif isinstance(message, Hello):
                self._greet(message, session)
            else:
                self._station.events.append(events.SaidGoodbye(self.peer.name))
                self._drop(self.slots.forget_confirmed())
        sealing = self.slots.sealing(now)
        # A peer that asks and does not read would else fill our memory.
        if echoes and sealing is not None and self.link is not None and not self.link.blocked:
            self._seal_control(sealing, echoes, now)
            self._renew_if_due(sealing, now)

    def _greet(self, theirs: Hello, session: Session) -> None:
        # Once in a session, or a hostile peer could make events faster than anybody reads them.
        if session.local_index == self._greeted:
            return
        self._greeted = session.local_index
        self._station.events += self.peer.greet(self._station.hello(self.peer.allowed_ips), theirs, session.born)

    def _drop(self, sessions: Iterable[Session]) -> None:
        self.drop_initiation()
        self._free(sessions)
        self._purge()
        self._timers.stop()

    def _put(self, messages: list[bytes]) -> None:
        self._outbox += messages
        self._station.ready[self] = None

    def _purge(self) -> None:
        self._station.ledger.drops[Reason.NO_SESSION] += self._staged.purge()

    def _free(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self._station.indices.free(session.local_index)
            self._station.ledger.drops.update(session.drops)
