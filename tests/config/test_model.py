from __future__ import annotations

import dataclasses

import pytest

from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.proto.errors import ConfigError


def test_an_ipv6_endpoint_is_written_with_brackets():
    assert str(Endpoint("2001:db8::1", 55555)) == "[2001:db8::1]:55555"
    assert str(Endpoint("192.0.2.1", 1)) == "192.0.2.1:1"
    assert str(Endpoint("vpn.example.org", 65535)) == "vpn.example.org:65535"


def test_a_configuration_cannot_be_changed():
    config = _config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"


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
