"""What the values of a configuration must be to each other. A value with a fault of its own is not judged again."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from tunneld.config import endpoints
from tunneld.config.document import Document, KeyPath
from tunneld.config.endpoints import LookUp, numeric
from tunneld.config.fields import MTU_RULE, MTU_SMALLEST, MTU_SMALLEST_IPV6
from tunneld.config.model import CIPHER_DEFAULT, Config, PeerConfig
from tunneld.keys import PublicKey
from tunneld.proto.const import ETHERNET_BYTES, MAX_DATAGRAM_BYTES, MAX_PACKET_BYTES
from tunneld.proto.errors import ConfigError
from tunneld.text import quoted

Network = IPv4Network | IPv6Network

CAP_NET_BIND_SERVICE = 10
ETHERNET_MTU = 1500
IP_UDP_BYTES = {4: 20 + 8, 6: 40 + 8}

# What the protocol adds to a packet, in bytes: a length; a header and a tag; those, a kind and a virtio header.
OVERHEAD = {"plain": 2, "wireguard": 16 + 16, "tunneld": 16 + 16 + 1 + 10}

WIREGUARD_ONLY = {
    ("tunnel", "transport"): ("udp", 'write "udp"'),
    ("tunnel", "cipher"): (CIPHER_DEFAULT, "remove the line"),
    ("interface", "mode"): ("tun", 'write "tun"'),
}


def check(config: Config, peers: tuple[PeerConfig, ...], document: Document, look_up: LookUp | None) -> None:
    """Add every fault between the values of `config` to `document`; `peers` are those that the file has."""
    known = not document.faulty("tunnel", "protocol")
    _interface(config, document)
    _routes(config, document)
    _peers(peers, document)
    if known and config.tunnel.protocol == "wireguard":
        _wireguard(config, document)
    if known and config.tunnel.sealed:
        _sealed_mtu(config, document)
        _sealed(config, peers, document)
    if known and not config.tunnel.sealed:
        for index in range(1, len(peers)):
            message = 'protocol = "plain" cannot tell two peers apart; keep one [[peer]]'
            document.fault(("peer", index), message, key="[[peer]]")
    _allowed_ips(config, peers, document)
    _start(config, peers, document)
    _listen(config, document)
    for index in range(len(peers)):
        if not document.faulty("peer", index, "endpoint"):
            endpoints.check(config, index, document, look_up)


def warnings(config: Config, document: Document) -> tuple[ConfigError, ...]:
    """What will work, but not well."""
    overhead = _outer_overhead(config)
    if overhead is None or config.interface.mtu is None or config.interface.mtu + overhead <= ETHERNET_MTU:
        return ()
    message = (
        f"{config.interface.mtu} + {overhead} of headers = {config.interface.mtu + overhead} is more than the "
        f"{ETHERNET_MTU} of an Ethernet path, so full packets travel in fragments; "
        f"{ETHERNET_MTU - overhead} or less avoids that"
    )
    return (document.faults.error(document.line_of(("interface", "mtu")), "mtu", message),)


def _outer_overhead(config: Config) -> int | None:
    """The most that is added to a packet on the path to any peer, in bytes; None where that does not matter."""
    if config.tunnel.transport != "udp":
        return None
    numerics = [[address for one in peer.endpoints if (address := numeric(one))] for peer in config.peers]
    versions = [found[0].version if found else 4 for found in numerics if not (found and found[0].is_loopback)]
    if not versions:
        return None
    return IP_UDP_BYTES[max(versions)] + _inner_overhead(config)


def _inner_overhead(config: Config) -> int:
    return OVERHEAD[config.tunnel.protocol] + (ETHERNET_BYTES if config.interface.mode == "tap" else 0)


def _interface(config: Config, document: Document) -> None:
    interface = config.interface
    if interface.mode == "tun":
        for key, value in (("bridge", interface.bridge), ("mac", interface.mac)):
            if value is not None:
                document.fault(("interface", key), f'only a TAP device has a {key}; write mode = "tap" or remove it')
    if interface.bridge is not None and interface.bridge == interface.name:
        document.fault(("interface", "bridge"), f"{quoted(interface.bridge)} is the interface itself; name a bridge")
    ipv6 = any(address.version == 6 for address in interface.addresses)
    if ipv6 and interface.mtu is not None and interface.mtu < MTU_SMALLEST_IPV6:
        document.fault(("interface", "mtu"), MTU_RULE)
    if not document.faulty("interface", "addresses"):
        for index, address in enumerate(interface.addresses):
            if any(address.ip == earlier.ip for earlier in interface.addresses[:index]):
                document.fault(("interface", "addresses", index), f"{address.ip} is there twice; keep one of the two")


def _routes(config: Config, document: Document) -> None:
    allowed = [prefix for peer in config.peers for prefix in peer.allowed_ips]
    if document.faulty("network", "routes"):
        return
    for index, route in enumerate(config.network.routes):
        path: KeyPath = ("network", "routes", index)
        if route.prefixlen == 0:
            document.fault(path, "this version cannot send everything through the tunnel; write smaller prefixes")
        elif route in config.network.routes[:index]:
            document.fault(path, f"{route} is there twice; keep one of the two")
        elif allowed and not document.faulty("peer") and not any(_inside(route, prefix) for prefix in allowed):
            document.fault(path, f"{route} lies inside no allowed_ips; add it there")


def _peers(peers: tuple[PeerConfig, ...], document: Document) -> None:
    names: dict[str, KeyPath] = {}
    prefixes: dict[Network, tuple[str, KeyPath]] = {}
    for index, peer in enumerate(peers):
        path: KeyPath = ("peer", index, "name")
        if not document.faulty(*path):
            if peer.name in names:
                earlier = document.line_of(names[peer.name])
                document.fault(path, f"name {quoted(peer.name)} already used in line {earlier}; choose another")
            names.setdefault(peer.name, path)
        if peer.pin_endpoint and not peer.endpoints and not document.faulty("peer", index, "endpoint"):
            message = "there is no endpoint to stay at; set endpoint or remove the line"
            document.fault(("peer", index, "pin_endpoint"), message)
        if document.faulty("peer", index, "allowed_ips"):
            continue
        for position, prefix in enumerate(peer.allowed_ips):
            path = ("peer", index, "allowed_ips", position)
            if prefix in prefixes:
                name, first = prefixes[prefix]
                whose = f"{quoted(name)} (line {document.line_of(first)})"
                message = f"{prefix} in {whose} and {quoted(peer.name)} (line {document.line_of(path)})"
                document.fault(path, f"{message}; keep it in one place")
            prefixes.setdefault(prefix, (peer.name, path))


def _allowed_ips(config: Config, peers: tuple[PeerConfig, ...], document: Document) -> None:
    if document.faulty("interface", "mode"):
        return
    for index, peer in enumerate(peers):
        path: KeyPath = ("peer", index, "allowed_ips")
        if config.interface.mode == "tap" and peer.allowed_ips:
            document.fault(
                path, "tap peers use macs, not allowed_ips; remove the line, and write routes in [network]"
            )
        needed = config.interface.mode == "tun" and config.tunnel.sealed and not document.faulty("tunnel", "protocol")
        if needed and not peer.allowed_ips and not document.faulty(*path):
            message = f'nothing could be sent to peer {quoted(peer.name)}; write what it has, such as ["10.0.0.2/32"]'
            document.fault(path, message)


def _wireguard(config: Config, document: Document) -> None:
    given = {"transport": config.tunnel.transport, "cipher": config.tunnel.cipher, "mode": config.interface.mode}
    for (section, key), (only, remedy) in WIREGUARD_ONLY.items():
        if given[key] != only:
            message = f'{quoted(given[key])} needs protocol = "tunneld" at both ends; write that, or {remedy}'
            document.fault((section, key), message)


def _sealed(config: Config, peers: tuple[PeerConfig, ...], document: Document) -> None:
    if not peers and not document.faulty("peer"):
        message = "no [[peer]] section; add one with the public_key of the other end"
        document.fault(("peer",), message, key="[[peer]]")
    private = config.tunnel.private_key
    own = None if private is None else private.public_key()
    seen: dict[PublicKey, tuple[str, KeyPath]] = {}
    for index, peer in enumerate(peers):
        path: KeyPath = ("peer", index, "public_key")
        key, named = peer.public_key, f"peer {quoted(peer.name)}"
        if key is None:
            if not document.faulty(*path):
                document.fault(path, f"missing; write for {named} what tunneld pubkey prints from its key")
        elif key == own:
            document.fault(path, f"{named} has our own public key; write what tunneld pubkey prints from its key")
        elif key in seen:
            name, first = seen[key]
            message = f"same key as peer {quoted(name)} (line {document.line_of(first)}); each peer has its own"
            document.fault(path, message)
        else:
            seen[key] = (peer.name, path)


def _sealed_mtu(config: Config, document: Document) -> None:
    udp = config.tunnel.transport == "udp"
    room = (MAX_DATAGRAM_BYTES if udp else MAX_PACKET_BYTES) - _inner_overhead(config)
    if config.interface.mtu is not None and config.interface.mtu > room:
        holder = "datagram" if udp else "record of TCP"
        document.fault(("interface", "mtu"), f"must be {MTU_SMALLEST}..{room}, or no sealed packet fits one {holder}")


def _start(config: Config, peers: tuple[PeerConfig, ...], document: Document) -> None:
    if config.tunnel.listen is not None or document.faulty("tunnel", "listen"):
        return
    message = "nobody can start: no listen and no endpoint; set one of the two"
    if not peers and not config.tunnel.sealed and not document.faulty("peer"):
        document.fault(("tunnel",), message, key="endpoint")
    for index, peer in enumerate(peers):
        if not peer.endpoints and not document.faulty("peer", index, "endpoint"):
            document.fault(("peer", index), message, key="endpoint")


def _listen(config: Config, document: Document) -> None:
    listen = config.tunnel.listen
    if listen is not None and listen.port < _unprivileged() and not _capable(CAP_NET_BIND_SERVICE):
        message = f"port {listen.port} needs CAP_NET_BIND_SERVICE; use a port of {_unprivileged()} or more"
        document.fault(("tunnel", "listen"), message)


def _inside(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _unprivileged() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def _capable(capability: int) -> bool:
    status = Path("/proc/thread-self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> capability & 1)
