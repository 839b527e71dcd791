"""Our own end, as all associations of a tunnel share it: keys, randomness, timestamps, and the table of indices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from tunneld.proto.allowedips import Network
from tunneld.proto.const import MAX_PACKET_BYTES
from tunneld.proto.controlchannel import Hello
from tunneld.proto.events import Event, Ledger
from tunneld.proto.handshake import Local, Random
from tunneld.proto.profile import Mode
from tunneld.proto.session import Session

# An Association.
A = TypeVar("A")

INDEX_BYTES: Final = 4
EPOCH_BYTES: Final = 8
# More than all peers of a daemon can cause between two looks, as each event takes a handshake or seconds.
MOST_EVENTS: Final = 10_000


class Indices(Generic[A]):
    """Who each 32-bit index of ours belongs to: an association, and its session once there is one."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._owners: dict[int, tuple[A, Session | None]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def reserve(self, association: A) -> int:
        """A new index for a handshake of `association`: random, so that it tells a stranger nothing."""
        while True:
            index = int.from_bytes(self._random(INDEX_BYTES), "little")
            if index not in self._owners:
                self._owners[index] = association, None
                return index

    def bind(self, session: Session) -> None:
        """The handshake of the index gave `session`."""
        association, _ = self._owners[session.local_index]
        self._owners[session.local_index] = association, session

    def free(self, index: int) -> None:
        """The handshake or the session of `index` is over."""
        del self._owners[index]

    def find_untrusted(self, index: int) -> tuple[A, Session | None] | None:
        """Whose index it is; None for nobody's."""
        return self._owners.get(index)


class Station(Generic[A]):
    """What the associations of one tunnel share.

    `random` gives that many random bytes, `stamp` the TAI64N label of a new initiation, `jitter` floats in [0, 1).
    `mtu` is the device's; it may be changed at any time. `moved` has the latest link of each peer that went elsewhere
    since that was told: a peer can do so with every message. Who has something to send enters itself in `ready`.
    """

    def __init__(
        self,
        local: Local,
        *,
        mode: Mode,
        random: Random,
        stamp: Callable[[], bytes],
        jitter: Callable[[], float],
        control: bool,
    ) -> None:
        """`control` says whether the protocol has a control channel."""
        self.local = local
        self.mode = mode
        self.random = random
        self.stamp = stamp
        self.jitter = jitter
        self.control = control
        self.mtu = 0
        self.epoch = random(EPOCH_BYTES)
        self.indices: Indices[A] = Indices(random)
        self.ledger = Ledger()
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.moved: dict[str, object] = {}
        self.ready: dict[A, None] = {}

    def hello(self, allowed_ips: tuple[Network, ...]) -> Hello:
        """What we tell a peer of our settings; `allowed_ips` are the prefixes that we route to it."""
        return Hello(self.epoch, min(self.mtu, MAX_PACKET_BYTES), self.mode, allowed_ips)
