"""Where the peers are: endpoints that would lead to ourselves, into the tunnel, or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from tunneld.config.document import Document, KeyPath
from tunneld.config.model import Config, Endpoint, PeerConfig
from tunneld.text import quoted

LookUp = Callable[[Endpoint], None]


def check(config: Config, index: int, document: Document, look_up: LookUp | None) -> None:
    """Add every fault of the endpoints of peer `index` to `document`; `look_up` is that of `load`."""
    peer = config.peers[index]
    for position, endpoint in enumerate(peer.endpoints):
        where: KeyPath = ("peer", index, "endpoint", position)
        address = numeric(endpoint)
        if endpoint in peer.endpoints[:position]:
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


def numeric(endpoint: Endpoint) -> IPv4Address | IPv6Address | None:
    """The address of an endpoint; None for a name."""
    try:
        return ip_address(endpoint.host)
    except ValueError:
        return None


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
    bound = numeric(listen)
    own = {bound, *(interface.ip for interface in config.interface.addresses)}
    return address in own or (bound is not None and bound.is_unspecified and address.is_loopback)


def _through_tunnel(config: Config, peer: PeerConfig, address: IPv4Address | IPv6Address) -> str:
    """What would send messages for `address` into the device that they carry; empty when nothing would."""
    interface = config.interface
    if interface.netns is not None:
        return ""
    # A prefix of length 0 makes no route. A bridge may have the peer on another of its ports.
    for other in config.peers:
        whose = "" if other is peer else f" of peer {quoted(other.name)}"
        for prefix in other.allowed_ips:
            if prefix.prefixlen and address in prefix:
                return f"{address} lies inside allowed_ips {prefix}{whose}, which"
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
    bound = numeric(listen) if listen is not None and config.tunnel.transport == "udp" else None
    return None if bound == IPv6Address("::") else bound
