"""What the pump needs of links, ports and devices; TCP, UDP and the fakes of the tests are measured by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from tunneld.proto.errors import Reason
from tunneld.proto.framing import Buffer


class Link(Protocol):
    """The way to one peer: a connection, or an address that a socket sends to."""

    @property
    def port(self) -> Port:
        """What carries it."""

    @property
    def blocked(self) -> bool:
        """Whether it takes no more for now."""

    def send_batch(self, messages: Sequence[Buffer]) -> int:
        """Send in order; returns how many were taken, the rest did not fit. Raises LinkDown."""


class Port(Protocol):
    """One non-blocking socket that carries the messages of one link, or of many."""

    drops: Counter[Reason]

    @property
    def blocked(self) -> bool:
        """Whether something waits for the socket to become writable; then `flush` is due."""

    @property
    def more(self) -> bool:
        """Whether the next `recv_batches` gives something, though the descriptor may never be readable again."""

    def fileno(self) -> int:
        """The descriptor to watch: for reading always, for writing while `blocked`."""

    def recv_batches(self, now: float) -> Sequence[tuple[Link, Sequence[memoryview]]]:
        """The messages that wait, up to a bound, with the link that they came over; what came over one link is
        together, in its order. Views valid until the next call. Raises LinkDown.
        """

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises LinkDown."""

    def close(self) -> None:
        """Close the socket; harmless when closed."""


class Device(Protocol):
    """One non-blocking TUN/TAP descriptor `fd` that gives and takes packets."""

    fd: int
    drops: Counter[Reason]
    packets_read: int
    bytes_read: int
    packets_written: int
    bytes_written: int

    def read_batch(self, limit: int) -> list[memoryview]:
        """Up to `limit` packets; views valid until the next call. Raises DeviceLostError."""

    def write_batch(self, packets: Sequence[bytes | memoryview]) -> None:
        """Write each; what the device refuses is counted in `drops`. Raises DeviceLostError."""
