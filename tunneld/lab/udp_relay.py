"""A bad wire for UDP: a relay between clients and one server that treats each datagram as its impairment says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from tunneld.edge import udp
from tunneld.lab import sockets
from tunneld.lab.host import Host
from tunneld.lab.impairment import CLEAN, Event, Impairment, Wire
from tunneld.lab.sockets import Address

Direction = Literal["to-target", "to-client"]
BURST = 64  # datagrams read in one wake-up, so that one busy socket does not starve the timers


class UdpRelay:
    """Runs in `host`, where clients send to `listen`; forwards to `target`, from a port of its own for each client.

    A context manager inside a running loop. The same seed gives the same luck to the n-th client's m-th datagram.
    """

    def __init__(
        self, host: Host, listen: Address, target: Address, *, seed: int = 0, impairment: Impairment = CLEAN
    ) -> None:
        self.host = host
        self.target = target
        self._seeds = itertools.count(seed * 1_000_003)
        self._impairments: dict[Direction, Impairment] = {"to-target": impairment, "to-client": impairment}
        self._socket = sockets.udp(host, bind=listen)
        self._flows: dict[Address, _Flow] = {}

    def __enter__(self) -> UdpRelay:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._from_clients)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self.forget()
        self._socket.close()

    def impair(self, impairment: Impairment, *directions: Direction) -> None:
        """From now on, in these directions; in both if none is named."""
        for direction in directions or ("to-target", "to-client"):
            self._impairments[direction] = impairment
            for flow in self._flows.values():
                flow.lanes[direction].wire.impairment = impairment

    def counts(self, direction: Direction) -> Counter[Event]:
        """What happened to the datagrams of all the present clients."""
        return sum((flow.lanes[direction].wire.counts for flow in self._flows.values()), Counter())

    def forget(self) -> None:
        """Drop the clients and what is under way; one that sends again gets another port, as after a NAT reboot."""
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()

    def _from_clients(self) -> None:
        for _ in range(BURST):
            try:
                datagram, client = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            if client not in self._flows:
                self._flows[client] = self._flow(client)
            self._flows[client].lanes["to-target"].carry(datagram)

    def _flow(self, client: Address) -> _Flow:
        upstream = sockets.udp(self.host, connect=self.target)
        sends: dict[Direction, Callable[[bytes], object]] = {
            "to-target": upstream.send,
            "to-client": lambda datagram: self._socket.sendto(datagram, client),
        }
        lanes = {
            direction: _Lane(Wire(next(self._seeds), self._impairments[direction]), send)
            for direction, send in sends.items()
        }
        return _Flow(upstream, lanes)


class _Flow:
    """One client: the socket towards the target, and a lane in each direction."""

    def __init__(self, upstream: socket.socket, lanes: dict[Direction, _Lane]) -> None:
        self.lanes = lanes
        self._upstream = upstream
        # Connected, it hears of a target that is away, which would end the watch of the socket itself.
        self._watch = udp.watch(upstream)
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._from_target)

    def close(self) -> None:
        for lane in self.lanes.values():
            lane.close()
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()
        self._upstream.close()

    def _from_target(self) -> None:
        for _ in range(BURST):
            try:
                datagram = self._upstream.recv(65535)
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            self.lanes["to-client"].carry(datagram)


class _Lane:
    """A wire, the timer that drives it, and where its datagrams go."""

    def __init__(self, wire: Wire, send: Callable[[bytes], object]) -> None:
        self.wire = wire
        self._send = send
        self._timer: asyncio.TimerHandle | None = None

    def carry(self, datagram: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self.wire.enqueue(now, datagram)
        self._deliver(now)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _deliver(self, now: float) -> None:
        for datagram in self.wire.poll_deliver(now):
            with contextlib.suppress(OSError):  # a wire tells nobody that the far end refused
                self._send(datagram)
        deadline = self.wire.poll_timeout()
        self.close()
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(deadline, lambda: self._deliver(max(deadline, loop.time())))
