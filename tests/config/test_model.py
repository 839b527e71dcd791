from __future__ import annotations

import dataclasses

import pytest

from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.config.model import CIPHER_DEFAULT, CIPHERS, PROTOCOLS
from tunneld.keys import PrivateKey
from tunneld.proto import profile
from tunneld.proto.errors import ConfigError


def test_an_ipv6_endpoint_is_written_with_brackets():
    assert str(Endpoint("2001:db8::1", 55555)) == "[2001:db8::1]:55555"
    assert str(Endpoint("192.0.2.1", 1)) == "192.0.2.1:1"
    assert str(Endpoint("vpn.example.org", 65535)) == "vpn.example.org:65535"


def test_a_configuration_cannot_be_changed():
    config = _config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"


def test_what_may_be_sealed_with_is_what_the_protocol_has():
    assert CIPHERS == profile.CIPHERS
    assert CIPHER_DEFAULT == "chacha20-poly1305"


def test_only_plain_is_not_sealed():
    assert [TunnelConfig(protocol, "udp", None).sealed for protocol in PROTOCOLS] == [True, True, False]


def test_secrets_make_configurations_differ_and_are_not_shown():
    one, two = (
        dataclasses.replace(_config(), tunnel=TunnelConfig("tunneld", "udp", None, private_key=PrivateKey(secret)))
        for secret in (bytearray([1] * 32), bytearray([2] * 32))
    )
    assert one != two
    assert one == dataclasses.replace(two, tunnel=one.tunnel)
    assert "private_key" not in repr(one)
    assert isinstance(hash(one), int)


def test_the_peer_of_a_tunnel_is_its_first():
    several = dataclasses.replace(_config(), peers=(PeerConfig("a"), PeerConfig("b")))
    assert several.peer.name == "a"


def test_warnings_do_not_make_configurations_differ():
    warned = dataclasses.replace(_config(), warnings=(ConfigError("f", 1, "mtu", "large"),))
    assert warned == _config()


def _config() -> Config:
    return Config(
        name="left",
        path=None,
        tunnel=TunnelConfig("plain", "udp", None),
        interface=InterfaceConfig("tun0", "tun"),
        network=NetworkConfig(),
        peers=(PeerConfig("right"),),
    )
