"""The pump moves batches between the device and the link, both ways, on the loop's own thread.

Theory of operation

- There is at most one device and at most one link at a time; either may be absent. Packets that meet an
  absence are read and dropped, counted by reason: a queue would only deliver them too late.
- Each readable event moves one batch and returns to the loop, so neither direction starves the other.
- Back-pressure is one bit. A link that could not send everything is `blocked`: its writer is armed and the
  device is not read until it is free again. The kernel's transmit queue then fills and drops, as it does
  for any slow link. What the peer sends is read all the while.
- The pump never closes what it was given while the loop still watches it: a descriptor is taken off the
  loop first, always, since uvloop aborts the process otherwise.
- Ends are reported to whoever awaits `carry` and `drive`, bugs too; the pump itself decides nothing.

Not handled here: reconnecting, repairing the device, whose packets are whose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NoReturn, Protocol

from tunneld.edge.device import DeviceLostError
from tunneld.edge.link import Device, Link
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.framing import Buffer

# Packets read from the device in one turn: 16 gave most of what batching can give (a wake-up costs more
# than a packet), and keep a turn under a millisecond.
DEVICE_BATCH = 16


class Tunnel(Protocol):
    """The pure machine between packets and messages."""

    drops: Counter[Reason]

    def to_messages(self, packets: Sequence[Buffer]) -> Sequence[Buffer]: ...

    def to_packets_untrusted(self, messages: Sequence[memoryview]) -> list[memoryview]: ...


@dataclass(slots=True)
class Counters:
    """What passed since the start. Bytes of messages are without length prefix and headers."""

    device_read_packets: int = 0
    device_read_bytes: int = 0
    device_written_packets: int = 0
    device_written_bytes: int = 0
    link_sent_messages: int = 0
    link_sent_bytes: int = 0
    link_received_messages: int = 0
    link_received_bytes: int = 0


class Pump:
    """Moves packets. `clock` gives CLOCK_BOOTTIME seconds and is read once for each batch from the link."""

    def __init__(self, tunnel: Tunnel, clock: Callable[[], float]) -> None:
        self._tunnel = tunnel
        self._clock = clock
        self._device: Device | None = None
        self._device_end: asyncio.Future[NoReturn] | None = None
        self._link: Link | None = None
        self._link_end: asyncio.Future[NoReturn] | None = None
        self._own_drops: Counter[Reason] = Counter()
        self._counters = Counters()
        self.last_received: float | None = None

    def drops(self) -> Counter[Reason]:
        """What was dropped since the start, by reason, wherever it happened."""
        parts = (self._tunnel, self._device, self._link)
        return sum((part.drops for part in parts if part is not None), self._own_drops)

    def count(self, reason: Reason) -> None:
        """One more that was dropped, before it reached a link."""
        self._own_drops[reason] += 1

    def totals(self) -> dict[str, int]:
        """The counters by name, those of the devices that were lost included."""
        counters = replace(self._counters)
        if self._device is not None:
            _add(counters, self._device)
        return asdict(counters)

    async def drive(self, device: Device) -> NoReturn:
        """Use `device` until it is lost. Raises DeviceLostError; the caller closes the device."""
        assert self._device is None, "one device at a time"
        end: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._device, self._device_end = device, end
        self._watch_device()
        try:
            await end
        finally:
            self._forget_device(device)
            _retrieve(end)

    async def carry(self, link: Link) -> NoReturn:
        """Use `link` until it goes down, then close it. Raises LinkDown.

        A link that is in use ends first: its own `carry` raises.
        """
        if self._link is not None:
            self._end_link(LinkDown("another connection to the peer took its place"))
        loop = asyncio.get_running_loop()
        end: asyncio.Future[NoReturn] = loop.create_future()
        self._link, self._link_end = link, end
        loop.add_reader(link.fileno(), self._turn, self._link_readable)
        self._watch_device()
        try:
            await end
        finally:
            if self._link is link:
                self._forget_link()
            link.close()
            _retrieve(end)

    def _turn(self, step: Callable[[], None]) -> None:
        """One callback of the loop, which would log an exception and go on: tell whoever awaits the end instead."""
        try:
            step()
        except DeviceLostError as lost:
            self._end_device(lost)
        except LinkDown as down:
            self._end_link(down)
        except BaseException as bug:
            if self._link is not None:
                self._end_link(bug)
            if self._device is not None:
                self._end_device(bug)

    def _device_readable(self) -> None:
        assert self._device is not None
        packets = self._device.read_batch(DEVICE_BATCH)
        if not packets:
            return
        if self._link is None:
            self._own_drops[Reason.NO_LINK] += len(packets)
            return
        self._send(self._link, self._tunnel.to_messages(packets))

    def _send(self, link: Link, messages: Sequence[Buffer]) -> None:
        try:
            taken = link.send_batch(messages)
        except LinkDown:
            self._own_drops[Reason.NO_LINK] += len(messages)
            raise
        self._counters.link_sent_messages += taken
        self._counters.link_sent_bytes += sum(map(len, messages[:taken]))
        self._own_drops[Reason.QUEUE_FULL] += len(messages) - taken
        if link.blocked:
            loop = asyncio.get_running_loop()
            if self._device is not None:
                loop.remove_reader(self._device.fd)
            loop.add_writer(link.fileno(), self._turn, self._link_writable)

    def _link_writable(self) -> None:
        assert self._link is not None
        self._link.flush()
        if not self._link.blocked:
            asyncio.get_running_loop().remove_writer(self._link.fileno())
            self._watch_device()

    def _link_readable(self) -> None:
        assert self._link is not None
        now = self._clock()
        messages = self._link.recv_batch(now)
        if not messages:
            return
        self.last_received = now
        self._counters.link_received_messages += len(messages)
        self._counters.link_received_bytes += sum(map(len, messages))
        packets = self._tunnel.to_packets_untrusted(messages)
        if self._device is None:
            self._own_drops[Reason.NO_DEVICE] += len(packets)
            return
        self._device.write_batch(packets)

    def _watch_device(self) -> None:
        if self._device is not None and not (self._link is not None and self._link.blocked):
            asyncio.get_running_loop().add_reader(self._device.fd, self._turn, self._device_readable)

    def _end_device(self, error: BaseException) -> None:
        assert self._device is not None
        assert self._device_end is not None
        end = self._device_end
        self._forget_device(self._device)
        if not end.done():
            end.set_exception(error)

    def _forget_device(self, device: Device) -> None:
        if self._device is device:
            asyncio.get_running_loop().remove_reader(device.fd)
            self._own_drops += device.drops
            _add(self._counters, device)
            self._device = None

    def _end_link(self, down: BaseException) -> None:
        assert self._link_end is not None
        end = self._link_end
        self._forget_link()
        if not end.done():
            end.set_exception(down)

    def _forget_link(self) -> None:
        assert self._link is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link.fileno())
        loop.remove_writer(self._link.fileno())
        self._own_drops += self._link.drops
        self._link = None
        self._watch_device()


def _add(counters: Counters, device: Device) -> None:
    counters.device_read_packets += device.packets_read
    counters.device_read_bytes += device.bytes_read
    counters.device_written_packets += device.packets_written
    counters.device_written_bytes += device.bytes_written


def _retrieve(end: asyncio.Future[NoReturn]) -> None:
    # A failure that arrives in the turn in which the waiter is cancelled has no reader left.
    if end.done() and not end.cancelled():
        end.exception()
