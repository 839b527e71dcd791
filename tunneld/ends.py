"""Our end of a tunnel without its device: the machine, the pump, and who makes the links; one class for each kind."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from tunneld import advice
from tunneld.advice import Advisor
from tunneld.config import Config
from tunneld.diagnosis import Diagnosis
from tunneld.edge import clock
from tunneld.links.datagrams import DatagramPeers
from tunneld.links.roster import Roster
from tunneld.links.state import PeerState
from tunneld.links.streams import StreamPeers
from tunneld.links.tcp import TcpPeer
from tunneld.links.udp import UdpPeer
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.tai64n import Stamper
from tunneld.pump import Pump
from tunneld.sealed import build, profile_of
from tunneld.stampfile import Keeper, StampFile, state_dir
from tunneld.status import StatusTeller

log = logging.getLogger("tunneld")

IN_CLEAR = (
    'protocol "plain": everything in this tunnel travels in clear and unauthenticated; '
    "anybody on the way can read it, change it and send into it"
)


class Runs(Protocol):
    """What makes links, and makes them again, until it is cancelled."""

    async def run(self) -> NoReturn: ...


class Plain:
    """`plain`: one peer, no keys."""

    def __init__(self, config: Config, states: Mapping[str, PeerState]) -> None:
        self._config = config
        self._state = states[config.peer.name]
        kind = PlainTunnel if config.tunnel.transport == "tcp" else PlainDatagramTunnel
        self.tunnel = kind(mode=config.interface.mode)
        self.pump = Pump(self.tunnel, clock.now)
        self.teller = StatusTeller(config, self.pump, states, peers=(), cases=tuple, clock=clock.now)

    def open_link(self, sock: socket.socket | None) -> Runs:
        """Takes over the listening socket."""
        log.warning(IN_CLEAR)
        endpoints = self._config.peer.endpoints
        if self._config.tunnel.transport == "tcp":
            return TcpPeer(
                self.pump, self._state, listener=sock, endpoints=endpoints, clock=clock.now, random=random.random
            )
        return UdpPeer(self.pump, self._state, bound=sock, endpoints=endpoints, clock=clock.now, random=random.random)

    async def tell(self) -> NoReturn:
        """Say in the log what the drops mean."""
        await Advisor(self.pump.drops, advice.PLAIN, clock.now).run()

    def say_goodbye(self) -> None:
        """There is no way to."""

    def reset_timestamp(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to the request "reset-timestamp"."""
        return {"error": "protocol plain knows no timestamps"}


class Sealed:
    """`tunneld` and `wireguard`: keys, and peers that they tell apart."""

    def __init__(self, config: Config, states: Mapping[str, PeerState]) -> None:
        self._config = config
        self._states = states
        file = StampFile(state_dir() / f"{config.name}.stamp")
        floor = file.load()
        self._stamper, self._keeper = Stamper(floor), Keeper(file, floor)
        self.tunnel = build(config, self._stamp, clock.now())
        self.pump = Pump(self.tunnel, clock.now)
        assert config.tunnel.private_key is not None
        self._diagnosis = Diagnosis(
            config.name,
            states,
            ours=config.tunnel.private_key.public_key(),
            settings=profile_of(config).settings,
            clock=clock.now,
        )
        self.teller = StatusTeller(
            config, self.pump, states, peers=self.tunnel.peers, cases=self._diagnosis.cases, clock=clock.now
        )

    def open_link(self, sock: socket.socket | None) -> Runs:
        """Takes over the listening socket."""
        roster = Roster({peer.name: peer for peer in self._config.peers}, self._states, self._diagnosis)
        if isinstance(self.tunnel, StreamTunnel):
            return StreamPeers(self.pump, self.tunnel, roster, bound=sock, clock=clock.now, random=random.random)
        return DatagramPeers(self.pump, self.tunnel, roster, bound=sock, clock=clock.now, random=random.random)

    async def tell(self) -> NoReturn:
        """Say in the log what those drops mean of which the links do not tell."""
        await Advisor(self.pump.drops, advice.SEALED, clock.now).run()

    def say_goodbye(self) -> None:
        """Tell every peer that we shut down, and forget all keys."""
        self.tunnel.say_goodbye(clock.now())
        self.pump.kick()
        self._keeper.close(self._stamper.floor)

    def reset_timestamp(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to the request "reset-timestamp": take the next initiation of "peer" whatever its timestamp.

        A recorded one of the peer would be taken too, once; whoever sends it cannot go on from our answer.
        """
        for peer in self.tunnel.peers:
            if peer.name == message.get("peer"):
                peer.reset_timestamp()
                return {"peer": peer.name}
        return {"error": f"no such peer; see: tunneld show {self._config.name}"}

    def _stamp(self) -> bytes:
        label = self._stamper.next(clock.wall())
        self._keeper.keep(self._stamper.floor, clock.now())
        return label
