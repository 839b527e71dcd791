"""From a configuration to a sealed tunnel: profile, peers, and who decides whose packets are whose."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import cast

from tunneld.config import Config, PeerConfig
from tunneld.proto.association import Association
from tunneld.proto.const import DATAGRAM_BYTES, ETHERNET_BYTES, MAX_PACKET_BYTES, PREFIX_BYTES
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.handshake import NO_PRESHARED_KEY, Local, Remote
from tunneld.proto.payload import BarePayload, KindPayload, Payload
from tunneld.proto.peer import Peer
from tunneld.proto.profile import WIREGUARD, Cipher, Mode, Profile, Transport, tunneld_profile
from tunneld.proto.routing import CableRouting, CryptokeyRouting, Routing, SwitchRouting
from tunneld.proto.session import OVERHEAD_BYTES
from tunneld.proto.station import Station
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.switch import MACS_PER_PEER


def profile_of(config: Config) -> Profile:
    """The protocol as both ends must have configured it."""
    tunnel = config.tunnel
    if tunnel.protocol == "wireguard":
        return WIREGUARD
    # The configuration was checked: there are no other words in it.
    return tunneld_profile(
        cast("Transport", tunnel.transport), cast("Mode", config.interface.mode), cast("Cipher", tunnel.cipher)
    )


def build(config: Config, stamp: Callable[[], bytes], now: float) -> DatagramTunnel | StreamTunnel:
    """The tunnel of `config`, whose secrets it takes over: there they are cleared, but for our public key.

    `stamp` gives the TAI64N label of a new initiation.
    """
    tunnel, mode = config.tunnel, cast("Mode", config.interface.mode)
    assert tunnel.private_key is not None
    station: Station[Association] = Station(
        Local(profile_of(config), tunnel.private_key.raw),
        mode=mode,
        random=os.urandom,
        stamp=stamp,
        jitter=random.random,
        control=tunnel.protocol == "tunneld",
    )
    peers = [_peer(config, peer) for peer in config.peers]
    _clear(config)
    routing: Routing
    if mode == "tun":
        routing = CryptokeyRouting(peers, station.ledger)
    elif len(peers) == 1:
        routing = CableRouting(peers[0], station.ledger)
    else:
        routing = SwitchRouting(peers, station.ledger, MACS_PER_PEER, now)
    return (StreamTunnel if tunnel.transport == "tcp" else DatagramTunnel)(station, peers, routing)


def _clear(config: Config) -> None:
    """Leave one copy of each secret in memory: of ours that of OpenSSL, of the preshared ones those of the peers."""
    assert config.tunnel.private_key is not None
    config.tunnel.private_key.public_key()
    for secret in (config.tunnel.private_key, *(peer.preshared_key for peer in config.peers)):
        if secret is not None:
            secret.clear()


def _peer(config: Config, peer: PeerConfig) -> Peer:
    assert peer.public_key is not None
    psk = NO_PRESHARED_KEY if peer.preshared_key is None else bytes(peer.preshared_key.raw)
    return Peer(
        peer.name,
        Remote(peer.public_key.raw, psk),
        _payload(config),
        allowed_ips=peer.allowed_ips,
        keepalive=float(peer.keepalive),
        pin_endpoint=peer.pin_endpoint,
    )


def _payload(config: Config) -> Payload:
    if config.tunnel.protocol == "wireguard":
        return BarePayload(max_packet=0)
    ethernet = config.interface.mode == "tap"
    # Over TCP all that waits together shares a record; over UDP what shares a datagram must fit the path, of which
    # the operator's MTU tells what is known.
    whole = MAX_PACKET_BYTES - OVERHEAD_BYTES
    if config.tunnel.transport == "udp":
        alone = 1 + PREFIX_BYTES + (config.interface.mtu or MAX_PACKET_BYTES) + (ETHERNET_BYTES if ethernet else 0)
        whole = min(DATAGRAM_BYTES - OVERHEAD_BYTES, alone)
    return KindPayload(max_packet=0, max_plaintext=whole, ethernet=ethernet)
