"""The peer over UDP: the configured endpoint, or without one the first sender.

Theory of operation

- One socket serves for the whole run; it is opened anew, after a jittered delay, only if it breaks.
- With endpoints, the first that resolves is the peer and nobody else is listened to. After 60 s without a datagram
  from it its name is resolved anew, and if we have sent all that time, the next endpoint of the list has its turn;
  until a name resolves the old address stays.
- A name with several addresses is one endpoint: it is heard from each of them, and answered where it was heard. Until
  then each address has its turn, but only while we send and nothing comes back: silence alone says nothing.
- Without, the first sender is the peer until 60 s of silence; both moments are logged.

`plain` has no keepalive, so an idle tunnel looks like a dead one; the state says only what was heard.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NoReturn

from tunneld.config import Endpoint
from tunneld.edge import address as addresses
from tunneld.edge import udp
from tunneld.edge.udp import UdpLink
from tunneld.links.state import PeerState, State
from tunneld.proto.backoff import Backoff
from tunneld.proto.const import FIRST_SENDER_HOLD
from tunneld.proto.errors import LinkDown
from tunneld.proto.source import Address, FirstSender, FixedSource, Released
from tunneld.pump import Pump
from tunneld.tasks import bare

# How often the state is brought up to date, in seconds.
TICK = 1.0
# How long what we send to one address of a name may stay unanswered before the next address is tried, in seconds.
PATIENCE = 10.0
HOLD = f"{FIRST_SENDER_HOLD:.0f} s"


class UdpPeer:
    """Keeps a UDP link to the peer in the pump. `random` gives floats in [0, 1) for the jitter."""

    def __init__(
        self,
        pump: Pump,
        state: PeerState,
        *,
        bound: socket.socket | None,
        endpoints: tuple[Endpoint, ...],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Takes over `bound`, the listening socket; at least one of it and `endpoints` is given."""
        self._pump = pump
        self._state = state
        self._bound = bound
        self._endpoints = endpoints
        self._clock = clock
        self._backoff = Backoff(random)

    async def run(self) -> NoReturn:
        """Serve until cancelled; then nothing of ours is open."""
        try:
            while True:
                try:
                    await self._serve()
                except LinkDown as down:
                    delay = self._backoff.delay()
                    self._state.become(State.DOWN, f"{down}; trying again in {delay:.1f} s")
                    await asyncio.sleep(delay)
        finally:
            if self._bound is not None:
                self._bound.close()

    async def _serve(self) -> None:
        """Carry packets until the socket breaks. Raises LinkDown."""
        source = FixedSource() if self._endpoints else FirstSender()
        try:
            sock = udp.open_unbound() if self._bound is None else self._bound.dup()
            link = UdpLink(sock, source)
        except OSError as error:
            raise LinkDown(addresses.said(error)) from None
        with bare(LinkDown):
            async with asyncio.TaskGroup() as tasks:
                if isinstance(source, FixedSource):
                    tasks.create_task(self._follow_endpoints(source, link, sock.family), name="follow")
                else:
                    tasks.create_task(self._follow_senders(source, link), name="follow")
                tasks.create_task(self._pump.carry(link), name="carry")

    async def _follow_senders(self, source: FirstSender, link: UdpLink) -> NoReturn:
        self._state.become(State.LISTENING, f"waiting on udp {addresses.text(link.local)}")
        while True:
            source.handle_timeout(self._clock())
            while (event := source.poll_event()) is not None:
                if isinstance(event, Released):
                    who = addresses.text(event.address)
                    self._state.become(State.LISTENING, f"{who} was silent for {HOLD} and is released")
            if source.address is not None:
                who = addresses.text(source.address)
                if link.trouble:
                    said = f"{who}: {link.trouble}; it stays the peer until {HOLD} of silence"
                    self._state.become(State.LISTENING, said, link=str(link))
                else:
                    self._state.become(State.UP, f"{who} sent first and is the peer", link=str(link))
            await asyncio.sleep(TICK)

    async def _follow_endpoints(self, source: FixedSource, link: UdpLink, family: socket.AddressFamily) -> NoReturn:
        self._state.become(State.CONNECTING, f"resolving {self._endpoints[0]}")
        turn = 0
        while True:
            endpoint = self._endpoints[turn % len(self._endpoints)]
            try:
                targets = _reachable(await addresses.resolve(endpoint), family)
            except LinkDown as down:
                delay = self._backoff.delay()
                self._state.become(State.CONNECTING, f"{down}; trying again in {delay:.1f} s")
                await asyncio.sleep(delay)
                turn += 1
                continue
            self._backoff.reset()
            before = source.address
            source.resolved(targets)
            if source.address != before:
                link.trouble = ""
            turn += await self._until_silent(endpoint, source, link)

    async def _until_silent(self, endpoint: Endpoint, source: FixedSource, link: UdpLink) -> bool:
        """Keep the state true until 60 s of silence; says whether what we sent stayed unanswered all that time."""
        started = answered = turned = self._clock()
        while True:
            now = self._clock()
            if not link.unanswered:
                answered = turned = now
            heard = started if link.heard is None else max(started, link.heard)
            if now - heard >= FIRST_SENDER_HOLD:
                return now - answered >= FIRST_SENDER_HOLD
            if heard == started and now - turned >= PATIENCE and source.turn():
                turned, link.trouble = now, ""
            if link.trouble:
                self._state.become(State.CONNECTING, f"{endpoint}: {link.trouble}", link=str(link))
            elif link.heard is not None and link.heard >= started:
                self._state.become(State.UP, f"datagrams arrive from {endpoint}", link=str(link))
            else:
                self._state.become(State.CONNECTING, f"{endpoint}: nothing heard lately", link=str(link))
            await asyncio.sleep(TICK)


def _reachable(targets: list[Address], family: socket.AddressFamily) -> tuple[Address, ...]:
    """The addresses that a socket of `family` can send to, each once. Raises LinkDown when there is none."""
    reachable: dict[Address, None] = {}
    failure = LinkDown("no address")
    for target in targets:
        try:
            reachable[addresses.for_family(target, family)] = None
        except LinkDown as down:
            failure = down
    if not reachable:
        raise failure
    return tuple(reachable)
