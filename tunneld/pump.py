"""The pump moves batches between the device and the links, both ways, on the loop's own thread.

Theory of operation

- There is at most one device, and a port for each socket: one for all peers over UDP, one for each connection over
  TCP. Any may be absent. Packets that meet an absence are read and dropped, counted by reason.
- Each readable event moves one batch and returns to the loop, so neither direction starves the other, and no peer the
  others: a port that has `more` in its memory gets its next turn as if it had been readable.
- Back-pressure is one bit a port. One that could not send everything is `blocked`: its writer is armed, and the
  tunnel keeps what is for it. While every port is blocked the device is not read; the kernel's transmit queue then
  fills and drops, as it does for any slow link. What the peers send is read all the while.
- The tunnel is asked for what is due when its own deadline says so, half a second after any traffic, and every 2 s
  while it has a deadline at all: the loop's clock stands still while the machine sleeps, and the tunnel's does not.
- The pump never closes what it was given while the loop still watches it: a descriptor is taken off the
  loop first, always, since uvloop aborts the process otherwise.
- Ends are reported to whoever awaits `carry` and `drive`, bugs too; the pump itself decides nothing.

Not handled here: reconnecting, repairing the device, whose packets are whose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, Protocol

from tunneld.edge.device import DeviceLostError
from tunneld.edge.link import Device, Link, Port
from tunneld.proto.errors import BadPacket, LinkDown, Reason
from tunneld.proto.framing import Buffer

# Packets read from the device in one turn: 16 gave most of what batching can give (a wake-up costs more
# than a packet), and keep a turn under a millisecond.
DEVICE_BATCH = 16
# Seconds from traffic to the next look at the tunnel's deadlines, of which the shortest is longer.
LOOK_SOON = 0.5
# Seconds between two looks at most, while there is a deadline.
LOOK_AT_LEAST = 2.0


class Tunnel(Protocol):
    """The pure machine between packets and messages."""

    @property
    def drops(self) -> Counter[Reason]: ...

    def attach(self, link: Any) -> None:
        """A port that is a link by itself is carried from now on."""

    def close(self, link: Any) -> None:
        """It is not any more."""

    def enqueue(self, packets: Sequence[Buffer], now: float) -> None:
        """Packets of the device, to be sent."""

    def receive_untrusted(self, link: Any, messages: Sequence[memoryview], now: float) -> Sequence[memoryview]:
        """The packets for the device in `messages`. Raises BadPacket if the link is to be closed."""

    def poll_transmit(self, now: float) -> tuple[Any, Sequence[Buffer]] | None:
        """What is to be sent next, over which Link; None when that was all."""

    def unblocked(self, link: Any) -> None:
        """The link takes more again."""

    def poll_timeout(self) -> tuple[float, str] | None:
        """When `handle_timeout` is due; None when nothing is."""

    def handle_timeout(self, now: float) -> None: ...


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
    """Moves packets. `clock` gives CLOCK_BOOTTIME seconds and is read once for each batch."""

    def __init__(self, tunnel: Tunnel, clock: Callable[[], float]) -> None:
        self._tunnel = tunnel
        self._clock = clock
        self._device: Device | None = None
        self._device_end: asyncio.Future[NoReturn] | None = None
        self._ports: dict[Port, asyncio.Future[NoReturn]] = {}
        self._blocked: set[Port] = set()
        self._again: set[Port] = set()
        self._own_drops: Counter[Reason] = Counter()
        self._counters = Counters()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._turned = asyncio.Event()
        self.last_received: float | None = None

    def drops(self) -> Counter[Reason]:
        """What was dropped since the start, by reason, wherever it happened."""
        parts = (self._tunnel, self._device, *self._ports)
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

    async def turned(self, seconds: float) -> None:
        """Wait until something came, went or was due since the last call, `seconds` at most. For one waiter."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._turned.wait()
        self._turned.clear()

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

    async def carry(self, port: Port) -> NoReturn:
        """Use `port` until it goes down, then close it. Raises LinkDown."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[NoReturn] = loop.create_future()
        self._ports[port] = end
        loop.add_reader(port.fileno(), self._turn, self._readable, port)
        self._tunnel.attach(port)
        self._watch_device()
        self.kick()
        try:
            await end
        finally:
            self._forget_port(port)
            port.close()
            _retrieve(end)

    def end(self, port: Port, down: LinkDown) -> None:
        """Let the `carry` of `port`, if there is one, raise `down`."""
        self._end_port(port, down)

    def kick(self) -> None:
        """Somebody else gave the tunnel something to say, or to wait for."""
        self._turn(self._look)

    def _turn(self, step: Callable[..., None], *port: Port) -> None:
        """One callback of the loop, which would log an exception and go on: tell whoever awaits the end instead."""
        self._turned.set()
        try:
            step(*port)
        except DeviceLostError as lost:
            self._end_device(lost)
        except BaseException as bug:
            for carried in tuple(self._ports):
                self._end_port(carried, bug)
            if self._device is not None:
                self._end_device(bug)

    def _device_readable(self) -> None:
        assert self._device is not None
        packets = self._device.read_batch(DEVICE_BATCH)
        if not packets:
            return
        now = self._clock()
        self._tunnel.enqueue(packets, now)
        self._transmit(now)

    def _readable(self, port: Port) -> None:
        now = self._clock()
        try:
            for link, messages in port.recv_batches(now):
                self._receive(link, messages, now)
        except LinkDown as down:
            self._end_port(port, down)
        except BadPacket as bad:
            self._end_port(port, LinkDown(f"what came is refused ({bad.reason.value})"))
        if port.more and port in self._ports and port not in self._again:
            self._again.add(port)
            asyncio.get_running_loop().call_soon(self._turn, self._read_on, port)
        self._transmit(now)

    def _read_on(self, port: Port) -> None:
        self._again.discard(port)
        if port in self._ports:
            self._readable(port)

    def _receive(self, link: Link, messages: Sequence[memoryview], now: float) -> None:
        self.last_received = now
        self._counters.link_received_messages += len(messages)
        self._counters.link_received_bytes += sum(map(len, messages))
        packets = self._tunnel.receive_untrusted(link, messages, now)
        if self._device is None:
            self._own_drops[Reason.NO_DEVICE] += len(packets)
        elif packets:
            self._device.write_batch(packets)

    def _transmit(self, now: float) -> None:
        while (out := self._tunnel.poll_transmit(now)) is not None:
            self._send(*out)
        if self._look_at > now + LOOK_SOON or self._timer is None:
            self._arm(now, now + LOOK_SOON)

    def _send(self, link: Link, messages: Sequence[Buffer]) -> None:
        port = link.port
        if port not in self._ports:
            self._own_drops[Reason.NO_LINK] += len(messages)
            return
        try:
            taken = link.send_batch(messages)
        except LinkDown as down:
            self._own_drops[Reason.NO_LINK] += len(messages)
            self._end_port(port, down)
            return
        self._counters.link_sent_messages += taken
        self._counters.link_sent_bytes += sum(map(len, messages[:taken]))
        if taken < len(messages):
            self._own_drops[Reason.QUEUE_FULL] += len(messages) - taken
        if port.blocked and port not in self._blocked:
            self._blocked.add(port)
            loop = asyncio.get_running_loop()
            loop.add_writer(port.fileno(), self._turn, self._writable, port)
            if self._device is not None and not self._wants_packets():
                loop.remove_reader(self._device.fd)

    def _writable(self, port: Port) -> None:
        try:
            port.flush()
        except LinkDown as down:
            self._end_port(port, down)
            return
        if not port.blocked:
            self._blocked.discard(port)
            asyncio.get_running_loop().remove_writer(port.fileno())
            self._tunnel.unblocked(port)
            self._transmit(self._clock())
            self._watch_device()

    def _look(self) -> None:
        now = self._clock()
        self._tunnel.handle_timeout(now)
        self._transmit(now)
        deadline = self._tunnel.poll_timeout()
        if deadline is None or not self._ports:
            self._disarm()
        else:
            self._arm(now, min(deadline[0], now + LOOK_AT_LEAST))

    def _arm(self, now: float, at: float) -> None:
        self._disarm()
        self._look_at = at
        self._timer = asyncio.get_running_loop().call_later(max(at - now, 0.0), self._turn, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wants_packets(self) -> bool:
        """Whether there is a port that takes something, or none at all, so that packets have to be dropped."""
        return not self._ports or len(self._blocked) < len(self._ports)

    def _watch_device(self) -> None:
        if self._device is not None and self._wants_packets():
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

    def _end_port(self, port: Port, down: BaseException) -> None:
        end = self._ports.get(port)
        self._forget_port(port)
        if end is not None and not end.done():
            end.set_exception(down)

    def _forget_port(self, port: Port) -> None:
        if self._ports.pop(port, None) is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(port.fileno())
        loop.remove_writer(port.fileno())
        self._blocked.discard(port)
        self._own_drops += port.drops
        self._tunnel.close(port)
        self._turned.set()
        if not self._ports:
            self._disarm()
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
