"""The peers of a sealed tunnel over UDP: one socket for all of them.

Theory of operation

- One socket serves for the whole run; it is opened anew, after a jittered delay, only if it breaks.
- A peer with endpoints is called at the start, so that what is wrong shows before the first packet is lost. Its
  names are resolved again whenever two initiations stayed unanswered, and the next address has its turn.
- Where a peer is that calls us, the tunnel learns from authentic data alone; it moves there too. A peer that roamed
  and stays silent is called at its endpoints again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NoReturn

from tunneld.config import PeerConfig
from tunneld.edge import address as addresses
from tunneld.edge import udp
from tunneld.edge.udpport import UdpPath, UdpPort
from tunneld.links.roster import Roster
from tunneld.links.state import State
from tunneld.proto.backoff import Backoff
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.errors import LinkDown
from tunneld.proto.events import Initiated
from tunneld.proto.peer import Peer
from tunneld.proto.source import Address
from tunneld.pump import Pump
from tunneld.tasks import bare

# How often events are told at most and at least, in seconds; a flood of them is one by then.
TICK = 0.2
TELL_AT_LEAST = 2.0
# A socket that served this long, in seconds, was no failure: the next delay is the first again.
HELD = 10.0
# So many initiations go to one address before the next has its turn.
TRIES = 2


class DatagramPeers:
    """Keeps the socket in the pump, and tells the tunnel where its peers are."""

    def __init__(
        self,
        pump: Pump,
        tunnel: DatagramTunnel,
        roster: Roster,
        *,
        bound: socket.socket | None,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Takes over `bound`, the listening socket."""
        self._pump = pump
        self._tunnel = tunnel
        self._roster = roster
        self._bound = bound
        self._clock = clock
        self._backoff = Backoff(random)
        self._turns = {peer.name: asyncio.Event() for peer in tunnel.peers}

    async def run(self) -> NoReturn:
        """Serve until cancelled; then nothing of ours is open."""
        try:
            while True:
                started = self._clock()
                try:
                    await self._serve()
                except LinkDown as down:
                    if self._clock() - started >= HELD:
                        self._backoff.reset()
                    delay = self._backoff.delay()
                    for state in self._roster.states.values():
                        state.become(State.DOWN, f"{down}; trying again in {delay:.1f} s")
                    await asyncio.sleep(delay)
        finally:
            if self._bound is not None:
                self._bound.close()

    async def _serve(self) -> None:
        """Carry packets until the socket breaks. Raises LinkDown."""
        try:
            port = UdpPort(udp.open_unbound() if self._bound is None else self._bound.dup())
        except OSError as error:
            raise LinkDown(addresses.said(error)) from None
        with bare(LinkDown):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump.carry(port), name="carry")
                await asyncio.sleep(0)  # until it is carried: what is sent before would be dropped
                for peer in self._tunnel.peers:
                    found = self._find_again(peer, port)
                    if self._roster.configured[peer.name].endpoints:
                        if not found:
                            self._turns[peer.name].set()
                        tasks.create_task(self._follow(peer, port), name=f"follow {peer.name}")
                    elif not found:
                        waiting = f"waiting on udp {addresses.text(port.local)}"
                        self._roster.states[peer.name].become(State.LISTENING, waiting)
                tasks.create_task(self._tell_forever(port), name="tell")

    def _find_again(self, peer: Peer, port: UdpPort) -> bool:
        """Whether the peer had a session when the last socket broke. It is where it was; we may be elsewhere."""
        association, now = peer.association, self._clock()
        assert association is not None
        if not isinstance(association.link, UdpPath) or not association.call(now):
            return False
        try:
            association.link = port.path(association.link.remote)
        except LinkDown:  # the old socket reached both families, this one does not
            return False
        self._roster.states[peer.name].become(State.UP, f"session with {addresses.text(association.link.remote)}")
        return True

    async def _follow(self, peer: Peer, port: UdpPort) -> NoReturn:
        """Call the peer at its endpoints, each in turn."""
        backoff = Backoff(lambda: 1.0)
        turn = 0
        while True:
            await self._turns[peer.name].wait()
            try:
                targets = await self._resolve(self._roster.configured[peer.name], port)
            except LinkDown as down:
                delay = backoff.delay()
                self._roster.diagnosis.trouble(peer.name, "unresolved", f"{down}; trying again in {delay:.1f} s")
                await asyncio.sleep(delay)
                continue
            backoff.reset()
            association = peer.association
            assert association is not None
            association.link = port.path(targets[turn % len(targets)])
            if turn == 0:
                association.initiate(self._clock())
                self._pump.kick()
            self._turns[peer.name].clear()
            turn += 1

    async def _resolve(self, peer: PeerConfig, port: UdpPort) -> list[Address]:
        """The addresses of all endpoints, in order, that the socket can reach. Raises LinkDown if there is none."""
        reachable: dict[Address, None] = {}
        failure = LinkDown("no endpoint")
        for endpoint in peer.endpoints:
            try:
                for target in await addresses.resolve(endpoint):
                    port.path(target)
                    reachable[target] = None
            except LinkDown as down:
                failure = down
        if not reachable:
            raise failure
        return list(reachable)

    async def _tell_forever(self, port: UdpPort) -> NoReturn:
        while True:
            while (event := self._tunnel.poll_event()) is not None:
                self._roster.diagnosis.take(event)
                if isinstance(event, Initiated) and event.attempt % TRIES == 0:
                    self._turns[event.peer].set()
            while (trouble := port.poll_trouble()) is not None:
                self._tell_trouble(*trouble)
            self._roster.settle()
            await asyncio.sleep(TICK)
            await self._pump.turned(TELL_AT_LEAST)

    def _tell_trouble(self, remote: Address, said: str) -> None:
        """What ICMP says of a peer that we are calling; it is easily forged, so one that answers is not concerned."""
        for peer in self._tunnel.peers:
            link = None if peer.association is None else peer.association.link
            up = self._roster.states[peer.name].state is State.UP
            if isinstance(link, UdpPath) and link.remote == remote and not up:
                where = addresses.text(remote)
                text = f"{where}: {said}"
                if said == "Connection refused":
                    text = f"port unreachable: nothing listens on UDP {where} there"
                self._roster.diagnosis.trouble(peer.name, "unreachable", text)
