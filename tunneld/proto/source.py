"""Whose datagrams are the peer's. `plain` has no keys, so the address has to do.

An address is what the socket calls it: (host, port) for IPv4, (host, port, flow, scope) for IPv6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from tunneld.proto.const import FIRST_SENDER_HOLD

Address = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Learned:
    """The sender at `address` is the peer from now on."""

    address: Address


@dataclass(frozen=True, slots=True)
class Released:
    """The peer at `address` was silent for too long; the next sender will be the peer."""

    address: Address


class Source(Protocol):
    """A rule that says who the peer is, and where our datagrams go."""

    @property
    def address(self) -> Address | None:
        """Where to send; None while nobody is known."""

    def admits(self, address: Address, now: float) -> bool:
        """Whether a datagram from `address` at `now` (CLOCK_BOOTTIME seconds) is the peer's."""


class FixedSource:
    """The configured endpoint and nobody else; `address` is None until its name has been resolved.

    A name may have several addresses, and the peer sends from one of them: that becomes `address`.
    """

    def __init__(self) -> None:
        self.address: Address | None = None
        self._addresses: tuple[Address, ...] = ()

    def resolved(self, addresses: tuple[Address, ...]) -> None:
        """`addresses`, at least one, are the endpoint's from now on; the one in use stays if it is among them."""
        self._addresses = addresses
        if self.address not in addresses:
            self.address = addresses[0]

    def turn(self) -> bool:
        """Try the next address; False when there is only one."""
        if self.address is None or len(self._addresses) < 2:
            return False
        self.address = self._addresses[(self._addresses.index(self.address) + 1) % len(self._addresses)]
        return True

    def admits(self, address: Address, now: float) -> bool:
        if address == self.address:
            return True
        if address not in self._addresses:
            return False
        self.address = address
        return True


class FirstSender:
    """The first sender becomes the peer and stays it until 60 s of silence."""

    def __init__(self) -> None:
        self.address: Address | None = None
        self._heard = 0.0
        self._events: deque[Learned | Released] = deque()

    def admits(self, address: Address, now: float) -> bool:
        self.handle_timeout(now)
        if self.address is None:
            self.address = address
            self._events.append(Learned(address))
        elif address != self.address:
            return False
        self._heard = now
        return True

    def poll_timeout(self) -> tuple[float, str] | None:
        """When the peer is released if it stays silent, and why; None while nobody is known."""
        return None if self.address is None else (self._heard + FIRST_SENDER_HOLD, "the peer is silent")

    def handle_timeout(self, now: float) -> None:
        """Release the peer if its time is over."""
        deadline = self.poll_timeout()
        if self.address is not None and deadline is not None and now >= deadline[0]:
            self._events.append(Released(self.address))
            self.address = None

    def poll_event(self) -> Learned | Released | None:
        """What happened since the last call, oldest first; None when that was all."""
        return self._events.popleft() if self._events else None
