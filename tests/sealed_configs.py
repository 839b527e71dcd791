"""Configurations of sealed tunnels, made without files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.keys import PresharedKey, PrivateKey

LOOPBACK = Endpoint("127.0.0.1", 0)


def key_of(name: str) -> PrivateKey:
    return PrivateKey(bytearray(hashlib.blake2s(name.encode(), person=b"tests").digest()))


def psk_of(name: str) -> PresharedKey:
    return PresharedKey(bytearray(hashlib.blake2s(name.encode(), person=b"psk").digest()))


def sealed_config(
    *names: str,
    ours: str = "left",
    protocol: str = "tunneld",
    transport: str = "udp",
    mode: str = "tun",
    cipher: str = "chacha20-poly1305",
    mtu: int | None = 1400,
    **each: Any,
) -> Config:
    """The tunnel of `ours` with the peers `names`, each with an address of its own; `each` is for all peers."""
    peers = tuple(
        PeerConfig(
            name,
            allowed_ips=() if mode == "tap" else (ip_network((0x0A090000 + number, 32)),),
            public_key=key_of(name).public_key(),
        )
        for number, name in enumerate(names, 2)
    )
    return Config(
        name="t",
        path=None,
        tunnel=TunnelConfig(protocol, transport, LOOPBACK, cipher, key_of(ours)),
        interface=InterfaceConfig("t0", mode, mtu=mtu),
        network=NetworkConfig(),
        peers=tuple(replace(peer, **each) for peer in peers),
    )
