from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sealed_configs import key_of, psk_of, sealed_config
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.errors import Reason
from tunneld.proto.handshake import NO_PRESHARED_KEY
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.profile import WIREGUARD, tunneld_profile
from tunneld.proto.routing import CableRouting, CryptokeyRouting, SwitchRouting
from tunneld.proto.streams import StreamTunnel
from tunneld.sealed import build, profile_of

ETHERNET_V6 = 1500 - 40 - 8 - 32  # what an IPv6 path of 1,500 bytes has left for a plaintext


def built(*names: str, **choices: object):
    return build(sealed_config(*names, **choices), lambda: bytes(12), 0.0)


@pytest.mark.parametrize("cipher", ["chacha20-poly1305", "aes-256-gcm"])
@pytest.mark.parametrize("mode", ["tun", "tap"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_profile_has_all_that_both_ends_must_agree_on(transport, mode, cipher):
    config = sealed_config("right", transport=transport, mode=mode, cipher=cipher)
    assert profile_of(config) == tunneld_profile(transport, mode, cipher)


def test_wireguard_has_one_profile():
    assert profile_of(sealed_config("right", protocol="wireguard", cipher="chacha20-poly1305")) is WIREGUARD


@pytest.mark.parametrize(("transport", "kind"), [("udp", DatagramTunnel), ("tcp", StreamTunnel)])
def test_the_transport_decides_the_kind_of_tunnel(transport, kind):
    assert type(built("right", transport=transport)) is kind


@pytest.mark.parametrize(
    ("mode", "names", "kind"),
    [
        ("tun", ("a",), CryptokeyRouting),
        ("tun", ("a", "b"), CryptokeyRouting),
        ("tap", ("a",), CableRouting),
        ("tap", ("a", "b"), SwitchRouting),
    ],
)
def test_mode_and_number_of_peers_decide_whose_packets_are_whose(mode, names, kind):
    assert type(built(*names, mode=mode)._routing) is kind


def test_a_peer_is_as_it_was_configured():
    config = sealed_config("a", "b", keepalive=25, pin_endpoint=True)
    config = replace(config, peers=(replace(config.peers[0], preshared_key=psk_of("a")), config.peers[1]))
    first, second = build(config, lambda: bytes(12), 0.0).peers
    assert [first.name, second.name] == ["a", "b"]
    assert first.remote.public == key_of("a").public_key().raw
    assert first.allowed_ips == config.peers[0].allowed_ips
    assert (first.remote.preshared_key, second.remote.preshared_key) == (bytes(psk_of("a").raw), NO_PRESHARED_KEY)
    assert (first.keepalive, first.pin_endpoint) == (25.0, True)


def test_packets_that_are_for_no_peer_are_counted_from_the_start():
    tunnel = built("a", "b")
    tunnel.max_packet = 1400
    tunnel.enqueue([b"\x45" + bytes(15) + bytes((10, 7, 0, 1))], 0.0)
    assert tunnel.drops == {Reason.NO_ROUTE: 1}


@pytest.mark.parametrize(
    ("choices", "most"),
    [
        # The kind byte, the prefix, the packet.
        ({"mtu": 1400}, 1 + 2 + 1400),
        ({"mtu": 1380, "mode": "tap"}, 1 + 2 + 18 + 1380),
        ({"mtu": None}, ETHERNET_V6),
        ({"mtu": 65_535}, ETHERNET_V6),
        ({"mtu": 1400, "transport": "tcp"}, 65_535 - 32),
    ],
)
def test_what_shares_a_message_fits_the_path(choices, most):
    (peer,) = built("a", **choices).peers
    assert isinstance(peer.payload, KindPayload)
    assert peer.payload.max_plaintext == most


def test_wireguard_carries_packets_bare_and_has_no_control_channel():
    tunnel = built("a", protocol="wireguard")
    assert type(tunnel.peers[0].payload) is BarePayload
    assert not tunnel._station.control
    assert built("a")._station.control
