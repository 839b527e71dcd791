"""Sealed tunnels whose messages are carried by hand: two or more ends, no socket, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from tests.proto.keys import numbers
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.handshake import NO_PRESHARED_KEY, Local, Remote
from tunneld.proto.noise import key_pair
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.peer import Peer
from tunneld.proto.profile import WIREGUARD, tunneld_profile
from tunneld.proto.routing import CableRouting, CryptokeyRouting, SwitchRouting
from tunneld.proto.station import Station
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.tai64n import Stamper

MTU = 1400
EVERYTHING = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Way:
    """Where a datagram came from; the name of the end stands for its address and port."""

    name: str
    blocked: bool = False

    @property
    def ip(self) -> bytes:
        return self.name.encode().ljust(4, b"\0")[:4]

    @property
    def source(self) -> bytes:
        return self.ip + b"\xd9\x03"


class Connection:
    """One end of a stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocked = False


def private(name: str) -> bytes:
    return numbers(name)(32)


def public(name: str) -> bytes:
    return key_pair(private(name)).public


def ipv4(source: str, destination: str, body: bytes = b"") -> bytes:
    """An IPv4 packet, as far as tunnels look at it."""
    octets = [bytes(map(int, address.split("."))) for address in (source, destination)]
    return bytes((0x45, 0)) + (20 + len(body)).to_bytes(2, "big") + bytes(8) + b"".join(octets) + body


def end(
    name: str,
    peers: dict[str, tuple[str, ...]],
    *,
    profile=None,
    psk: bytes = NO_PRESHARED_KEY,
    keepalive: float = 0.0,
    pinned: bool = False,
    floor: float = 1_700_000_000.0,
    macs: int = 64,
    routing=None,
):
    """The tunnel of the end `name`, whose `peers` are given by name with their allowed_ips."""
    profile = profile or tunneld_profile("udp", "tun", "chacha20-poly1305")
    sealed = profile is not WIREGUARD
    mode = "tap" if " tap " in profile.settings + " " else "tun"
    random = numbers(f"random of {name}")
    stamper = Stamper()
    station = Station(
        Local(profile, private(name)),
        mode=mode,
        random=random,
        stamp=lambda: stamper.next(floor),
        jitter=lambda: 0.5,
        control=sealed,
    )

    def payload():
        if not sealed:
            return BarePayload(max_packet=MTU)
        return KindPayload(max_packet=MTU, max_plaintext=MTU + 20, ethernet=mode == "tap")

    known = [
        Peer(
            other,
            Remote(public(other), psk),
            payload(),
            allowed_ips=[ip_network(prefix) for prefix in prefixes],
            keepalive=keepalive,
            pin_endpoint=pinned,
        )
        for other, prefixes in peers.items()
    ]
    if mode == "tun":
        routes = CryptokeyRouting(known, station.ledger)
    elif len(known) == 1:
        routes = CableRouting(known[0], station.ledger)
    else:
        routes = SwitchRouting(known, station.ledger, macs, 0.0)
    kind = StreamTunnel if b" tcp " in profile.prologue else DatagramTunnel
    tunnel = kind(station, known, routes)
    tunnel.max_packet = MTU + (18 if mode == "tap" else 0)
    return tunnel


def events(tunnel):
    found = []
    while (event := tunnel.poll_event()) is not None:
        found.append(event)
    return found


def messages(tunnel, now):
    """What the tunnel wants to send now: links and messages."""
    found = []
    while (out := tunnel.poll_transmit(now)) is not None:
        found += [(out[0], message) for message in out[1]]
    return found


class Wire:
    """Carries datagrams between ends by name until nobody has anything to say; what passed is kept in `seen`."""

    def __init__(self, **tunnels) -> None:
        self.tunnels = tunnels
        self.seen: list[tuple[str, str, bytes]] = []
        self.received: dict[str, list[bytes]] = {name: [] for name in tunnels}

    def settle(self, now: float, lost=lambda sender, receiver, message: False) -> None:
        for _ in range(100):
            under_way = [
                (name, link.name, message)
                for name, tunnel in self.tunnels.items()
                for link, message in messages(tunnel, now)
            ]
            if not under_way:
                return
            for sender, receiver, message in under_way:
                self.seen.append((sender, receiver, message))
                if not lost(sender, receiver, message):
                    self.deliver(sender, receiver, [message], now)
        raise AssertionError("the ends never stop talking")

    def deliver(self, sender: str, receiver: str, datagrams, now: float) -> None:
        packets = self.tunnels[receiver].receive_untrusted(Way(sender), [memoryview(m) for m in datagrams], now)
        self.received[receiver] += map(bytes, packets)


def point(tunnel, peer: str, link) -> None:
    """Tell the tunnel where `peer` is."""
    next(known for known in tunnel.peers if known.name == peer).association.link = link
