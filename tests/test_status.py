from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network

import pytest

from tests.sealed_configs import key_of, psk_of, sealed_config
from tunneld import __version__
from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.control import CauseStatus, ControlServer, PeerStatus, Status, request
from tunneld.diagnosis import Case
from tunneld.keys import encode
from tunneld.links.state import PeerState, State
from tunneld.proto.controlchannel import Difference
from tunneld.proto.errors import Reason
from tunneld.proto.plain import PlainDatagramTunnel
from tunneld.pump import Pump
from tunneld.sealed import build
from tunneld.status import StatusTeller

PLAIN = Config(
    name="d",
    path=None,
    tunnel=TunnelConfig("plain", "udp", Endpoint("127.0.0.1", 0)),
    interface=InterfaceConfig("d0", "tun"),
    network=NetworkConfig(),
    peers=(PeerConfig("far"),),
)


class Told:
    """A tunnel of `config` that does nothing, what it says of itself, and a clock to turn."""

    def __init__(self, config: Config) -> None:
        self.now = 1000.0
        self.cases: list[Case] = []
        self.states = {peer.name: PeerState(peer.name, self._clock, lambda: None) for peer in config.peers}
        if config.tunnel.sealed:
            tunnel = build(config, lambda: bytes(12), self.now)
            self.peers = tunnel.peers
        else:
            tunnel, self.peers = PlainDatagramTunnel(mode="tun"), ()
        self.pump = Pump(tunnel, self._clock)
        self._teller = StatusTeller(
            config, self.pump, self.states, peers=self.peers, cases=lambda: self.cases, clock=self._clock
        )

    def status(self, trouble: str = "") -> Status:
        return self._teller.status(mtu=1400, trouble=trouble)

    def _clock(self) -> float:
        return self.now


@pytest.mark.parametrize("config", [PLAIN, sealed_config("a", "b")], ids=["plain", "sealed"])
def test_it_has_all_its_keys_and_can_be_written(config):
    told = Told(config)
    told.cases = [Case("storm", "", "a loop", 3, 990.0, 990.0)]
    status = told.status()
    assert status.keys() == Status.__annotations__.keys()
    assert [peer.keys() for peer in status["peers"]] == [PeerStatus.__annotations__.keys()] * len(config.peers)
    assert [cause.keys() for cause in status["causes"]] == [CauseStatus.__annotations__.keys()]
    assert json.loads(json.dumps(status)) == status


def test_plain_knows_its_peer_by_the_link_alone():
    told = Told(PLAIN)
    told.states["far"].become(State.UP, "datagrams arrive", link="udp a → b")
    told.pump.last_received = 1001.0
    told.now = 1010.0
    status = told.status()
    assert (status["cipher"], status["public_key"], status["version"]) == (None, None, __version__)
    (peer,) = status["peers"]
    assert (peer["link"], peer["connected_since"], peer["last_received"]) == ("udp a → b", 10.0, 9.0)
    assert {peer[key] for key in ("public_key", "endpoint", "latest_handshake", "sent_bytes", "loss")} == {None}


TWO = (Endpoint("vpn.example.org", 5), Endpoint("192.0.2.3", 6))


@pytest.mark.parametrize(
    ("endpoints", "state", "link", "told"),
    [
        (TWO, State.UP, "udp 192.0.2.1:5 → 192.0.2.3:6", "192.0.2.3:6"),
        (TWO, State.UP, "tcp 192.0.2.1:5 ← 192.0.2.3:40000", "vpn.example.org:5, 192.0.2.3:6"),
        (TWO, State.CONNECTING, "udp 192.0.2.1:5 → 192.0.2.3:6", "vpn.example.org:5, 192.0.2.3:6"),
        (TWO, State.DOWN, None, "vpn.example.org:5, 192.0.2.3:6"),
        (TWO[:1], State.UP, "udp 192.0.2.1:5 → 192.0.2.2:5", "vpn.example.org:5"),
        ((), State.UP, "udp 192.0.2.1:5 → 192.0.2.2:5", None),
    ],
)
def test_of_several_endpoints_the_one_in_use_is_told_and_else_all(endpoints, state, link, told):
    one = Told(sealed_config("a", endpoints=endpoints))
    one.states["a"].become(state, "because", link=link)
    assert one.status()["peers"][0]["endpoint"] == told


def test_a_sealed_peer_has_its_public_key_and_its_figures():
    config = sealed_config("a", endpoints=(Endpoint("192.0.2.2", 5), Endpoint("192.0.2.3", 6)), keepalive=25)
    told = Told(config)
    peer = told.peers[0]
    peer.latest_received, peer.latest_handshake, peer.received_bytes, peer.sent_bytes = 1004.0, 1003.0, 7, 8
    peer.prober.round_trip = 0.25
    peer.differences = (Difference("mtu", "set it"),)
    told.now = 1010.0
    status = told.status()
    assert (status["protocol"], status["cipher"]) == ("tunneld", "chacha20-poly1305")
    assert status["public_key"] == str(key_of("left").public_key())
    assert status["peers"] == [
        {
            "name": "a",
            "public_key": str(key_of("a").public_key()),
            "endpoint": "192.0.2.2:5, 192.0.2.3:6",
            "allowed_ips": [str(ip_network("10.9.0.2/32"))],
            "keepalive": 25,
            "state": "down",
            "reason": "starting",
            "link": None,
            "connected_since": None,
            "last_received": 6.0,
            "latest_handshake": 7.0,
            "received_bytes": 7,
            "sent_bytes": 8,
            "round_trip": 0.25,
            "loss": None,
            "differences": ["set it"],
        }
    ]


def test_no_secret_is_in_it():
    said = json.dumps(Told(sealed_config("a", preshared_key=psk_of("a"))).status())
    for secret in (key_of("left"), psk_of("a")):
        assert encode(bytes(secret.raw)).decode() not in said


def test_of_several_peers_the_best_state_counts_and_the_reason_says_how_many_are_up():
    told = Told(sealed_config("a", "b", "c"))
    assert told.status()["reason"] == "0 of 3 peers up; a: starting"
    told.states["b"].become(State.LISTENING, "waiting")
    assert (told.status()["state"], told.status()["reason"]) == ("listening", "0 of 3 peers up; b: waiting")
    told.now = 1005.0
    told.states["c"].become(State.UP, "session with c")
    told.states["a"].become(State.UP, "session with a")
    told.now = 1010.0
    status = told.status()
    assert (status["state"], status["reason"]) == ("up", "2 of 3 peers up; a: session with a")
    assert (status["since"], status["uptime"]) == (5.0, 10.0)


def test_without_a_device_the_tunnel_is_down():
    told = Told(sealed_config("a"))
    told.states["a"].become(State.UP, "session with a")
    status = told.status("t0: the device was deleted")
    assert (status["state"], status["reason"]) == ("down", "t0: the device was deleted")
    assert status["peers"][0]["state"] == "up"


def test_drops_are_by_name_and_causes_by_age():
    told = Told(PLAIN)
    told.pump.count(Reason.STRANGER)
    told.pump.count(Reason.EMPTY)
    told.cases = [
        Case("unknown-peer", "", "add it", 3, 995.0, 990.0),
        Case("no-answer", "far", "wait", 1, 990.0, 0.0),
    ]
    status = told.status()
    assert list(status["drops"].items()) == [("empty", 1), ("stranger", 1)]
    assert status["causes"] == [
        {"cause": "unknown-peer", "peer": None, "count": 3, "last": 5.0, "sentence": "add it"},
        {"cause": "no-answer", "peer": "far", "count": 1, "last": 10.0, "sentence": "wait"},
    ]


async def test_a_thousand_peers_are_told_over_the_control_socket(tmp_path):
    names = [f"member-{number}" for number in range(1000)]
    told = Told(sealed_config(*names, endpoints=(Endpoint("2001:db8::1", 55555),)))
    told.cases = [Case("no-answer", name, "x" * 200, 1, 0.0, 0.0) for name in names]
    async with ControlServer(tmp_path / "t.sock", {"status": lambda _: told.status()}):
        answer = await asyncio.to_thread(request, tmp_path / "t.sock", {"request": "status"})
    assert [peer["name"] for peer in answer["peers"]] == names
    assert len(answer["causes"]) == 1000
    assert len(json.dumps(answer)) > 500_000  # many times what a socket holds
