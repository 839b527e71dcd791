"""What the values of a configuration must be to each other. A value with a fault of its own is not judged again."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from tunneld.config.document import Document, KeyPath
from tunneld.config.fields import MTU_RULE, MTU_SMALLEST_IPV6
from tunneld.config.model import Config, Endpoint, PeerConfig
from tunneld.proto.errors import ConfigError
from tunneld.text import quoted

LookUp = Callable[[Endpoint], None]
Network = IPv4Network | IPv6Network

CAP_NET_BIND_SERVICE = 10
ETHERNET_MTU = 1500
IP_UDP_LENGTH = {4: 20 + 8 + 2, 6: 40 + 8 + 2}
ETHERNET_VLAN = 18


def check(config: Config, peers: tuple[PeerConfig, ...], document: Document, look_up: LookUp | None) -> None:
    """Add every fault between the values of `config` to `document`; `peers` are all that the file has."""
    _interface(config, document)
    _routes(config, document)
    _peers(peers, document)
    _start(config, peers, document)
    _listen(config, document)
    for index, peer in enumerate(peers):
        if not document.faulty("peer", index, "endpoint"):
            _endpoints(config, peer, ("peer", index, "endpoint"), document, look_up)


def warnings(config: Config, document: Document) -> tuple[ConfigError, ...]:
    """What will work, but not well."""
    numeric = [_numeric(endpoint) for endpoint in config.peer.endpoints]
    outer = next((address for address in numeric if address is not None), None)
    if config.tunnel.transport != "udp" or config.interface.mtu is None or (outer is not None and outer.is_loopback):
        return ()
    overhead = IP_UDP_LENGTH[outer.version if outer else 4] + (ETHERNET_VLAN if config.interface.mode == "tap" else 0)
    largest = config.interface.mtu + overhead
    if largest <= ETHERNET_MTU:
        return ()
    message = (
        f"{config.interface.mtu} + {overhead} of headers = {largest} is more than the {ETHERNET_MTU} of an Ethernet "
        f"path, so full packets travel in fragments; {ETHERNET_MTU - overhead} or less avoids that"
    )
    return (document.faults.error(document.line_of(("interface", "mtu")), "mtu", message),)


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
    allowed = config.peer.allowed_ips
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
    names: dict[str, int] = {}
    prefixes: dict[Network, tuple[str, int]] = {}
    for index, peer in enumerate(peers):
        line = document.line_of(("peer", index, "name"))
        if index:
            message = 'protocol = "plain" cannot tell two peers apart; keep one [[peer]]'
            document.fault(("peer", index), message, key="[[peer]]")
        if peer.name in names and not document.faulty("peer", index, "name"):
            message = f"name {quoted(peer.name)} already used in line {names[peer.name]}; choose another"
            document.fault(("peer", index, "name"), message)
        names.setdefault(peer.name, line)
        if document.faulty("peer", index, "allowed_ips"):
            continue
        for position, prefix in enumerate(peer.allowed_ips):
            path: KeyPath = ("peer", index, "allowed_ips", position)
            if prefix in prefixes:
                name, earlier = prefixes[prefix]
                whose = f"{quoted(name)} (line {earlier}) and {quoted(peer.name)} (line {document.line_of(path)})"
                document.fault(path, f"{prefix} in {whose}; keep it in one place")
            prefixes.setdefault(prefix, (peer.name, document.line_of(path)))


def _start(config: Config, peers: tuple[PeerConfig, ...], document: Document) -> None:
    if config.interface.mode == "tap":
        for index, peer in enumerate(peers):
            if peer.allowed_ips:
                message = "tap peers use macs, not allowed_ips; remove the line, and write routes in [network]"
                document.fault(("peer", index, "allowed_ips"), message)
    faulty = document.faulty("tunnel", "listen") or document.faulty("peer") or document.faulty("tunnel")
    if config.tunnel.listen is None and not any(peer.endpoints for peer in peers) and not faulty:
        path: KeyPath = ("peer", 0) if peers else ("tunnel",)
        document.fault(path, "nobody can start: no listen and no endpoint; set one of the two", key="endpoint")


def _listen(config: Config, document: Document) -> None:
    listen = config.tunnel.listen
    if listen is not None and listen.port < _unprivileged() and not _capable(CAP_NET_BIND_SERVICE):
        message = f"port {listen.port} needs CAP_NET_BIND_SERVICE; use a port of {_unprivileged()} or more"
        document.fault(("tunnel", "listen"), message)


def _endpoints(config: Config, peer: PeerConfig, path: KeyPath, document: Document, look_up: LookUp | None) -> None:
    for index, endpoint in enumerate(peer.endpoints):
        where = (*path, index)
        address = _numeric(endpoint)
        if endpoint in peer.endpoints[:index]:
            document.fault(where, f"{endpoint} is there twice; keep one of the two")
        elif address is None:
            _known(endpoint, where, document, look_up)
        elif _is_own(config, endpoint.port, address):
            document.fault(where, f"{endpoint} is this host itself; write the address of the peer")
        elif route := _through_tunnel(config, peer, address):
            document.fault(where, f"{route} would route the tunnel into itself; take {address} out of it")
        elif (listen := _bound(config)) is not None and listen.version != address.version:
            message = (
                f'{endpoint} is IPv{address.version}, but listen is IPv{listen.version}; write listen = "[::]:PORT"'
            )
            document.fault(where, message)


def _known(endpoint: Endpoint, path: KeyPath, document: Document, look_up: LookUp | None) -> None:
    if look_up is None:
        return
    try:
        look_up(endpoint)
    except OSError as error:
        document.fault(
            path, f"{endpoint.host} does not resolve ({error.strerror}); correct the name or the name server"
        )


def _is_own(config: Config, port: int, address: IPv4Address | IPv6Address) -> bool:
    listen = config.tunnel.listen
    if listen is None or listen.port != port:
        return False
    bound = _numeric(listen)
    own = {bound, *(interface.ip for interface in config.interface.addresses)}
    return address in own or (bound is not None and bound.is_unspecified and address.is_loopback)


def _through_tunnel(config: Config, peer: PeerConfig, address: IPv4Address | IPv6Address) -> str:
    """What would send messages for `address` into the device that they carry; empty when nothing would."""
    interface = config.interface
    if interface.netns is not None:
        return ""
    # A prefix of length 0 makes no route. A bridge may have the peer on another of its ports.
    for prefix in peer.allowed_ips:
        if prefix.prefixlen and address in prefix:
            return f"{address} lies inside allowed_ips {prefix}, which"
    for prefix in config.network.routes:
        if prefix.prefixlen and address in prefix:
            return f"{address} lies inside routes {prefix}, which"
    for own in interface.addresses if interface.bridge is None else ():
        if address in own.network:
            return f"{address} lies inside the subnet of addresses {own}, which"
    return ""


def _bound(config: Config) -> IPv4Address | IPv6Address | None:
    """The address to whose family the sending socket is bound; None where it may be either."""
    listen = config.tunnel.listen
    bound = _numeric(listen) if listen is not None and config.tunnel.transport == "udp" else None
    return None if bound == IPv6Address("::") else bound


def _numeric(endpoint: Endpoint) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(endpoint.host)
    except ValueError:
        return None


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
