"""The answer to the request "status": what a running tunnel says of itself. control.Status gives the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tunneld import __version__
from tunneld.config import Config, PeerConfig
from tunneld.control import CauseStatus, PeerStatus, Status
from tunneld.diagnosis import Case
from tunneld.links.state import PeerState, State
from tunneld.proto.peer import Peer
from tunneld.pump import Pump

# Of several peers the tunnel has the best state that one of them has.
ORDER = (State.UP, State.CONNECTING, State.LISTENING, State.DOWN)


class StatusTeller:
    """Knows where to look. `peers` are those of a sealed tunnel; plain has none, and one state."""

    def __init__(
        self,
        config: Config,
        pump: Pump,
        states: Mapping[str, PeerState],
        *,
        peers: Sequence[Peer],
        cases: Callable[[], Sequence[Case]],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._pump = pump
        self._states = states
        self._peers = {peer.name: peer for peer in peers}
        self._cases = cases
        self._clock = clock
        self._started = clock()

    def state(self) -> tuple[PeerState, str]:
        """The state that stands for all, and its reason."""
        best = min(self._states.values(), key=lambda state: ORDER.index(state.state))
        if len(self._states) == 1:
            return best, best.reason
        up = sum(state.state is State.UP for state in self._states.values())
        return best, f"{up} of {len(self._states)} peers up; {best.name}: {best.reason}"

    def status(self, *, mtu: int, trouble: str) -> Status:
        """`trouble` says why there is no device; "" when there is one."""
        config, now = self._config, self._clock()
        state, reason = self.state()
        tunnel, key = config.tunnel, config.tunnel.private_key
        return {
            "name": config.name,
            "version": __version__,
            "protocol": tunnel.protocol,
            "transport": tunnel.transport,
            "cipher": tunnel.cipher if tunnel.sealed else None,
            "public_key": None if key is None else str(key.public_key()),
            "mode": config.interface.mode,
            "interface": config.interface.name,
            "mtu": mtu,
            "state": State.DOWN.value if trouble else state.state.value,
            "reason": trouble or reason,
            "since": now - state.since,
            "uptime": now - self._started,
            "peers": [self._peer(peer, now) for peer in config.peers],
            "counters": self._pump.totals(),
            "drops": dict(sorted((cause.value, count) for cause, count in self._pump.drops().items() if count)),
            "causes": [_cause(case, now) for case in self._cases()],
        }

    def _peer(self, config: PeerConfig, now: float) -> PeerStatus:
        state, peer = self._states[config.name], self._peers.get(config.name)
        received = self._pump.last_received if peer is None else peer.latest_received
        return {
            "name": config.name,
            "public_key": None if config.public_key is None else str(config.public_key),
            "endpoint": _endpoint(config, state),
            "allowed_ips": [str(network) for network in config.allowed_ips],
            "keepalive": config.keepalive,
            "state": state.state.value,
            "reason": state.reason,
            "link": state.link,
            "connected_since": now - state.since if state.state is State.UP else None,
            "last_received": None if received is None else now - received,
            "latest_handshake": _age(peer.latest_handshake, now) if peer else None,
            "received_bytes": peer.received_bytes if peer else None,
            "sent_bytes": peer.sent_bytes if peer else None,
            "round_trip": peer.prober.round_trip if peer else None,
            "loss": peer.prober.loss if peer else None,
            "differences": [difference.sentence for difference in peer.differences] if peer else [],
        }


def _endpoint(config: PeerConfig, state: PeerState) -> str | None:
    """The one that is configured; of several the address that is in use, or all while none is."""
    # A link is written with the arrow from who opened it; where the peer did, the address is none of its endpoints.
    _, ours, remote = (state.link or "").partition(" → ")
    if len(config.endpoints) > 1 and ours and state.state is State.UP:
        return remote
    return ", ".join(map(str, config.endpoints)) or None


def _age(moment: float | None, now: float) -> float | None:
    return None if moment is None else now - moment


def _cause(case: Case, now: float) -> CauseStatus:
    return {
        "cause": case.cause,
        "peer": case.peer or None,
        "count": case.count,
        "last": now - case.last,
        "sentence": case.sentence,
    }
