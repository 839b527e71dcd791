"""The records of a configuration that has no faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from tunneld.proto.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """HOST:PORT; `host` is a name or a numeric address without brackets. Port 1..65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """[tunnel]: what goes over the wire, and where it leaves."""

    protocol: str
    transport: str
    listen: Endpoint | None


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
    """[[peer]]: the other end. `endpoints` in order of preference; empty: it must come to us."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """One tunnel. `name` is the stem of the file; it names the control socket and the lock.

    `warnings` say what will work, but not well.
    """

    name: str
    path: Path | None
    tunnel: TunnelConfig
    interface: InterfaceConfig
    network: NetworkConfig
    peer: PeerConfig
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)
