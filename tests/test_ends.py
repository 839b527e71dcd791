from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.edge.pairs import until
from tests.sealed_configs import LOOPBACK, sealed_config
from tunneld import advice
from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.edge import clock, tcp, udp
from tunneld.ends import IN_CLEAR, Plain, Sealed
from tunneld.links.datagrams import DatagramPeers
from tunneld.links.state import PeerState, State
from tunneld.links.streams import StreamPeers
from tunneld.links.tcp import TcpPeer
from tunneld.links.udp import UdpPeer
from tunneld.proto.errors import Reason
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel
from tunneld.proto.tai64n import NEVER, seconds_between, stamp
from tunneld.remedies import REMEDIES
from tunneld.stampfile import AHEAD, StampFile

UP = {"left": State.UP, "right": State.UP}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch) -> StampFile:
    """What tunnels called "t" remember."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return StampFile(tmp_path / "t.stamp")


def states_of(config: Config) -> dict[str, PeerState]:
    return {peer.name: PeerState(peer.name, clock.now, lambda: None) for peer in config.peers}


def listening(transport: str) -> tuple[socket.socket, Endpoint]:
    sock = tcp.listen(LOOPBACK) if transport == "tcp" else udp.open_bound(LOOPBACK)
    return sock, Endpoint(*sock.getsockname()[:2])


def plain(transport: str) -> Plain:
    peers = (PeerConfig("far"),)
    tunnel = TunnelConfig("plain", transport, LOOPBACK)
    config = Config("p", None, tunnel, InterfaceConfig("p0", "tun"), NetworkConfig(), peers)
    return Plain(config, states_of(config))


@pytest.mark.parametrize(
    ("transport", "tunnel", "link"), [("tcp", PlainTunnel, TcpPeer), ("udp", PlainDatagramTunnel, UdpPeer)]
)
def test_plain_is_warned_about_and_has_the_links_of_its_transport(transport, tunnel, link, caplog):
    end = plain(transport)
    assert type(end.tunnel) is tunnel
    with closing(listening(transport)[0]) as sock:
        assert type(end.open_link(sock)) is link
    assert caplog.messages == [IN_CLEAR]
    end.say_goodbye()


@pytest.mark.parametrize(("transport", "link"), [("tcp", StreamPeers), ("udp", DatagramPeers)])
def test_a_sealed_end_has_the_links_of_its_transport_and_no_warning(transport, link, caplog):
    config = sealed_config("right", transport=transport)
    assert type(Sealed(config, states_of(config)).open_link(None)) is link
    assert caplog.messages == []


class Two:
    """left, which waits, and right, which calls it."""

    def __init__(self, **choices: str) -> None:
        self.sock, at = listening(choices.get("transport", "udp"))
        where = () if choices.get("mode") == "tap" else (ip_network("10.9.0.1/32"),)
        configs = [
            sealed_config("right", ours="left", **choices),
            replace(sealed_config("left", ours="right", endpoints=(at,), allowed_ips=where, **choices), name="u"),
        ]
        self._states = {}
        self.ends = []
        for config in configs:
            states = states_of(config)
            self._states |= states
            self.ends.append(Sealed(config, states))

    @property
    def states(self) -> dict[str, State]:
        """Of the peers, each as the other end sees it."""
        return {name: state.state for name, state in self._states.items()}

    def reason(self, name: str) -> str:
        return self._states[name].reason


@asynccontextmanager
async def running(two: Two) -> AsyncIterator[None]:
    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            links = [two.ends[0].open_link(two.sock), two.ends[1].open_link(None)]
            running = [tasks.create_task(link.run()) for link in links]
            yield
            for task in running:
                task.cancel()


@pytest.mark.parametrize("choices", [{}, {"transport": "tcp"}, {"protocol": "wireguard"}, {"mode": "tap"}], ids=str)
async def test_two_ends_meet_and_say_so(choices):
    two = Two(**choices)
    async with running(two):
        await until(lambda: two.states == UP)
        for end in two.ends:
            status = end.teller.status(mtu=1400, trouble="")
            assert status["peers"][0]["latest_handshake"] < 5.0
            assert (status["causes"], status["drops"]) == ([], {})


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_who_leaves_says_goodbye(transport):
    two = Two(transport=transport)
    async with running(two):
        await until(lambda: two.states == UP)
        two.ends[0].say_goodbye()
        await until(lambda: two.reason("left") == "peer shut down")
        assert two.states["left"] is State.DOWN


def test_what_a_peer_is_refused_for_is_forgotten_when_asked():
    config = sealed_config("right")
    end = Sealed(config, states_of(config))
    (peer,) = end.tunnel.peers
    peer.admit_initiation_untrusted(stamp(2000.0), 1.0)
    for unknown in ("left", None, ["right"]):
        assert end.reset_timestamp({"peer": unknown}) == {"error": f"no such peer; see: tunneld show {config.name}"}
    assert peer.last_stamp == stamp(2000.0)
    assert end.reset_timestamp({"peer": "right"}) == {"peer": "right"}
    assert peer.last_stamp == NEVER


def test_plain_has_no_timestamps_to_forget():
    assert plain("udp").reset_timestamp({"peer": "far"}) == {"error": "protocol plain knows no timestamps"}


async def test_the_last_timestamp_outlives_the_run(memory):
    two = Two()
    kept = StampFile(memory.path.with_name("u.stamp"))
    async with running(two):
        await until(lambda: two.states == UP)
        assert seconds_between(stamp(clock.wall()), kept.load()) > AHEAD - 5
        two.ends[1].say_goodbye()
        assert -5 < seconds_between(stamp(clock.wall()), kept.load()) < 5
    assert memory.load() == NEVER


@pytest.mark.parametrize("reason", [Reason.FORGED, Reason.WRONG_MODE])
async def test_what_no_event_tells_is_told_all_the_same(reason, caplog, monkeypatch):
    monkeypatch.setattr(advice, "LOOK_EVERY", 0.005)
    config = sealed_config("right")
    end = Sealed(config, states_of(config)) if reason is Reason.FORGED else plain("udp")
    caplog.clear()
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(end.tell())
        end.pump.count(reason)
        await until(lambda: caplog.messages)
        telling.cancel()
    assert caplog.messages == [f"dropped 1 ({reason.value}): {REMEDIES[reason]}"]
