"""The records of a configuration that has no faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from tunneld.keys import PresharedKey, PrivateKey, PublicKey
from tunneld.proto.errors import ConfigError

PROTOCOLS = ("tunneld", "wireguard", "plain")
CIPHERS = ("chacha20-poly1305", "aes-256-gcm")
CIPHER_DEFAULT = CIPHERS[0]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """HOST:PORT; `host` is a name or a numeric address without brackets. Port 1..65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """[tunnel]: what goes over the wire, and where it leaves.

    `protocol` is "tunneld", "wireguard" or "plain", which has no `private_key` and never uses `cipher`.
    """

    protocol: str
    transport: str
    listen: Endpoint | None
    cipher: str = CIPHER_DEFAULT
    private_key: PrivateKey | None = field(default=None, repr=False, hash=False)

    @property
    def sealed(self) -> bool:
        """Whether there are keys, and sessions under them."""
        return self.protocol != "plain"


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """[interface]: the device. `mtu` in bytes, without the Ethernet header; None leaves the kernel's value."""

    name: str
    mode: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mtu: int | None = None
    mac: str | None = None
    txqueuelen: int | None = None
    bridge: str | None = None
    persist: bool = False
    netns: str | None = None
    on_loss: str = "repair"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """[network]: routes beside those that follow from allowed_ips."""

    routes: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """[[peer]]: another end. `endpoints` in order of preference; empty: it must come to us.

    `keepalive` in seconds of silence after which we send, 0 never. With `pin_endpoint` the peer is only ever sent to
    at its endpoint, wherever its messages come from. `public_key` is None for plain alone.
    """

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] = ()
    public_key: PublicKey | None = None
    preshared_key: PresharedKey | None = field(default=None, repr=False, hash=False)
    keepalive: int = 0
    pin_endpoint: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """One tunnel. `name` is the stem of the file; it names the control socket and the lock.

    There is one peer at least, and with plain exactly one. `warnings` say what will work, but not well.
    """

    name: str
    path: Path | None
    tunnel: TunnelConfig
    interface: InterfaceConfig
    network: NetworkConfig
    peers: tuple[PeerConfig, ...]
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)

    @property
    def peer(self) -> PeerConfig:
        """The first peer."""
        return self.peers[0]
