"""What a bad wire does to what passes: the decisions, without any socket. Time and randomness come from outside."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Impairment:
    """Delays are seconds in one direction, the rest are probabilities per datagram (per piece of a TCP stream).

    `jitter` is spread evenly on top of `delay`, and so reorders what is sent in a row, as netem's does. A reordered
    datagram arrives `hold` seconds late. `cut` lets nothing pass. Loss, reordering and duplication do not exist in a
    TCP stream; there `segment` is the greatest number of bytes that is passed on in one write (0: no limit).
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    hold: float = 0.01
    duplicate: float = 0.0
    corrupt: float = 0.0
    cut: bool = False
    segment: int = 0


class Event(Enum):
    """What happened to a datagram; the keys of `Wire.counts`."""

    SENT = "sent"
    LOST = "lost"
    CUT = "cut"
    FULL = "full"
    REORDERED = "reordered"
    DUPLICATED = "duplicated"
    CORRUPTED = "corrupted"
    DELIVERED = "delivered"


CLEAN = Impairment()
CAPACITY = 16384  # datagrams on a wire at once; 100 ms at 160,000 a second


class Wire:
    """One direction of a wire for datagrams. `impairment` may be replaced; it holds for what is sent from then on.

    The same seed and the same calls give the same deliveries.
    """

    def __init__(self, seed: int, impairment: Impairment = CLEAN) -> None:
        self.impairment = impairment
        self.counts: Counter[Event] = Counter()
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, bytes]] = []  # heap of (due, order of sending, datagram)
        self._order = 0

    def enqueue(self, now: float, datagram: bytes) -> None:
        """A datagram enters the wire at `now`."""
        self.counts[Event.SENT] += 1
        # Every draw is made for every datagram: one setting changed does not shift the luck of the others.
        lost, reordered, duplicated, corrupted, jitter = (self._random.random() for _ in range(5))
        bit = self._random.randrange(max(1, len(datagram) * 8))
        wish = self.impairment
        if wish.cut:
            self.counts[Event.CUT] += 1
            return
        if lost < wish.loss:
            self.counts[Event.LOST] += 1
            return
        due = now + wish.delay + jitter * wish.jitter
        if corrupted < wish.corrupt and datagram:
            self.counts[Event.CORRUPTED] += 1
            datagram = flip(datagram, bit)
        if reordered < wish.reorder:
            self.counts[Event.REORDERED] += 1
            due += wish.hold
        self._push(due, datagram)
        if duplicated < wish.duplicate:
            self.counts[Event.DUPLICATED] += 1
            self._push(due, datagram)

    def poll_deliver(self, now: float) -> list[bytes]:
        """The datagrams that leave the wire until `now`, in the order in which they do."""
        ready: list[bytes] = []
        while self._queue and self._queue[0][0] <= now:
            ready.append(heapq.heappop(self._queue)[2])
        self.counts[Event.DELIVERED] += len(ready)
        return ready

    def poll_timeout(self) -> float | None:
        """When the next datagram is due; None while the wire is empty."""
        return self._queue[0][0] if self._queue else None

    def _push(self, due: float, datagram: bytes) -> None:
        if len(self._queue) == CAPACITY:
            self.counts[Event.FULL] += 1
            return
        heapq.heappush(self._queue, (due, self._order, datagram))
        self._order += 1


class Stream:
    """One direction of a TCP connection: byte order is kept, pieces are late, cut small or corrupted."""

    def __init__(self, seed: int, impairment: Impairment = CLEAN) -> None:
        self._random = random.Random(seed)
        self._last_due = 0.0
        self.impairment = impairment

    @property
    def impairment(self) -> Impairment:
        return self._impairment

    @impairment.setter
    def impairment(self, wish: Impairment) -> None:
        """Raises ValueError for what cannot happen within a TCP stream."""
        if wish.loss or wish.reorder or wish.duplicate or wish.cut:
            raise ValueError("a TCP stream neither loses, reorders nor duplicates, and is cut by the relay's methods")
        self._impairment = wish

    def pieces(self, now: float, data: bytes) -> list[tuple[float, bytes]]:
        """What is read at `now` as (when to write it, bytes), in order."""
        wish = self._impairment
        size = wish.segment or len(data)
        return [(self._due(now), self._corrupted(data[at : at + size])) for at in range(0, len(data), size)]

    def _due(self, now: float) -> float:
        due = now + self._impairment.delay + self._random.random() * self._impairment.jitter
        self._last_due = max(self._last_due, due)
        return self._last_due

    def _corrupted(self, piece: bytes) -> bytes:
        if self._random.random() < self._impairment.corrupt:
            return flip(piece, self._random.randrange(len(piece) * 8))
        return piece


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit inverted; bit 0 is the lowest of the first byte."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)
