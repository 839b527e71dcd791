"""Cryptokey routing: which peer an address belongs to, by longest prefix.

One dict for every prefix length in use, asked from the longest to the shortest. A packet costs one conversion
of its address and one look-up for each length, of which configurations have few; no object is built for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from ipaddress import IPv4Network, IPv6Network
from operator import itemgetter
from typing import Generic, TypeVar

from tunneld.proto.const import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from tunneld.proto.framing import Buffer

Network = IPv4Network | IPv6Network
P = TypeVar("P", bound=Hashable)
# Longest prefix first: how many bits lie behind it, and the owners by the bits of the prefix.
Tables = list[tuple[int, dict[int, P]]]


class AllowedIPs(Generic[P]):
    """Prefixes and the peers they belong to. A prefix belongs to one peer at a time."""

    def __init__(self) -> None:
        self._owners: dict[Network, P] = {}
        self._ipv4: Tables[P] = []
        self._ipv6: Tables[P] = []

    def insert(self, networks: Iterable[Network], peer: P) -> None:
        """Give `networks` to `peer`; one that another peer had moves."""
        for network in networks:
            self._owners[network] = peer
            tables = self._ipv4 if network.version == 4 else self._ipv6
            shift = network.max_prefixlen - network.prefixlen
            _of_length(tables, shift)[int(network.network_address) >> shift] = peer

    def remove(self, peer: P) -> None:
        """Forget all prefixes of `peer`, if it has any."""
        left = {network: owner for network, owner in self._owners.items() if owner != peer}
        self._owners, self._ipv4, self._ipv6 = {}, [], []
        for network, owner in left.items():
            self.insert((network,), owner)

    def destination(self, packet: Buffer) -> P | None:
        """The peer to which `packet`, read from the device, is to go; None for nobody's, and for no IP packet."""
        version = packet[0] >> 4 if packet else 0
        if version == 4 and len(packet) >= IPV4_HEADER_BYTES:
            return _longest(self._ipv4, int.from_bytes(packet[16:20], "big"))
        if version == 6 and len(packet) >= IPV6_HEADER_BYTES:
            return _longest(self._ipv6, int.from_bytes(packet[24:40], "big"))
        return None

    def source_untrusted(self, packet: Buffer) -> P | None:
        """The only peer that may send `packet`; None if none may, and for no IP packet."""
        version = packet[0] >> 4 if packet else 0
        if version == 4 and len(packet) >= IPV4_HEADER_BYTES:
            return _longest(self._ipv4, int.from_bytes(packet[12:16], "big"))
        if version == 6 and len(packet) >= IPV6_HEADER_BYTES:
            return _longest(self._ipv6, int.from_bytes(packet[8:24], "big"))
        return None

    def sole(self) -> P | None:
        """The peer to which every address belongs, so that packets need not be asked about; None mostly."""
        owners = set(self._owners.values())
        if len(owners) == 1 and {IPv4Network("0.0.0.0/0"), IPv6Network("::/0")} <= self._owners.keys():
            return owners.pop()
        return None


def _of_length(tables: Tables[P], shift: int) -> dict[int, P]:
    """The owners by prefix for one length; an empty dict in its place if no prefix had it before."""
    at = bisect_left(tables, shift, key=itemgetter(0))
    if at == len(tables) or tables[at][0] != shift:
        tables.insert(at, (shift, {}))
    return tables[at][1]


def _longest(tables: Tables[P], address: int) -> P | None:
    for shift, owners in tables:
        peer = owners.get(address >> shift)
        if peer is not None:
            return peer
    return None
