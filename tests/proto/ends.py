"""Sealed tunnels whose messages are carried by hand: two or more ends, no socket, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from ipaddress import ip_network

from tests.proto.keys import numbers
from tunneld.proto.controlchannel import decode_untrusted
from tunneld.proto.datagrams import DatagramTunnel
from tunneld.proto.errors import BadPacket
from tunneld.proto.events import Superseded
from tunneld.proto.handshake import NO_PRESHARED_KEY, Local, Remote, create_initiation
from tunneld.proto.noise import key_pair
from tunneld.proto.payload import BarePayload, KindPayload
from tunneld.proto.peer import Peer
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.routing import CableRouting, CryptokeyRouting, SwitchRouting
from tunneld.proto.station import Station
from tunneld.proto.streams import StreamTunnel
from tunneld.proto.tai64n import Stamper, stamp

MTU = 1400
EVERYTHING = ("0.0.0.0/0", "::/0")
NOW = 1000.0


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
    """One end of a stream. `arrived` is what waits to be read, `sent` all that was ever written."""

    def __init__(self, name: str, ip: bytes = b"\xc0\0\2\1") -> None:
        self.name = name
        self.ip = ip
        self.blocked = False
        self.closed = False
        self.known = False
        self.other: Connection
        self.arrived: deque[bytes] = deque()
        self.sent: list[bytes] = []

    def __repr__(self) -> str:
        return f"Connection of {self.name}"


def private(name: str) -> bytes:
    return numbers(name)(32)


def public(name: str) -> bytes:
    return key_pair(private(name)).public


def ipv4(source: str, destination: str, body: bytes = b"") -> bytes:
    """An IPv4 packet, as far as tunnels look at it."""
    octets = [bytes(map(int, address.split("."))) for address in (source, destination)]
    return bytes((0x45, 0)) + (20 + len(body)).to_bytes(2, "big") + bytes(8) + b"".join(octets) + body


class Overheard(KindPayload):
    """Keeps in `said` what was put into plaintexts: batches of packets, and lists of control messages."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.said: list[list[object]] = []

    def pack(self, packets):
        self.said.append([bytes(packet) for packet in packets])
        return super().pack(packets)

    def control(self, body):
        self.said.append(decode_untrusted(body)[0])
        return super().control(body)


def end(
    name: str,
    peers: dict[str, tuple[str, ...]],
    *,
    profile=None,
    psk: bytes = NO_PRESHARED_KEY,
    keepalive: float = 0.0,
    pinned: bool = False,
    floor: float = 1_700_000_000.0,
    random: str = "",
    macs: int = 64,
    jitter=None,
):
    """The tunnel of the end `name`, whose `peers` are given by name with their allowed_ips."""
    profile = profile or tunneld_profile("udp", "tun", "chacha20-poly1305")
    sealed = profile is not WIREGUARD
    mode = "tap" if " tap " in profile.settings + " " else "tun"
    drawn = numbers(random or f"random of {name}")
    stamper = Stamper()
    jitter = jitter or (lambda: 0.5)
    station = Station(
        Local(profile, private(name)),
        mode=mode,
        random=drawn,
        stamp=lambda: stamper.next(floor),
        jitter=jitter,
        control=sealed,
    )

    def payload():
        if not sealed:
            return BarePayload(max_packet=MTU)
        return Overheard(max_packet=MTU, max_plaintext=MTU + 20, ethernet=mode == "tap")

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


def initiation(profile, sender: str, receiver: str, at: float = 2e9) -> bytes:
    """An initiation that `sender` made at some time, whatever its tunnel knows of it."""
    local, remote = Local(profile, private(sender)), Remote(public(receiver))
    drawn = numbers(f"{sender} at {at}")
    return create_initiation(local, remote, sender=1, timestamp=stamp(at), now=0.0, random=drawn).message


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
    """Carries datagrams between ends by name until nobody has anything to say; what passed is kept in `seen`.

    `lost`, whatever it is asked with, says which of them do not arrive; `sent_at` has the moment of each.
    """

    def __init__(self, **tunnels) -> None:
        self.tunnels = tunnels
        self.seen: list[tuple[str, str, bytes]] = []
        self.sent_at: list[float] = []
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
                self.sent_at.append(now)
                if not lost(sender, receiver, message):
                    self.deliver(sender, receiver, [message], now)
        raise AssertionError("the ends never stop talking")

    def deliver(self, sender: str, receiver: str, datagrams, now: float) -> None:
        packets = self.tunnels[receiver].receive_untrusted(Way(sender), [memoryview(m) for m in datagrams], now)
        self.received[receiver] += map(bytes, packets)

    def moments(self, sender: str, kind: MessageType) -> list[float]:
        """When the end sent messages of that kind."""
        seen = zip(self.seen, self.sent_at, strict=True)
        return [now for (name, _, message), now in seen if (name, message[0] & 0x7F) == (sender, kind)]


class Cables:
    """Connections between ends by name, each of which carries what was written, whole and in order.

    What the ends ask for is done: a connection is closed when a message was refused, or when it is superseded. The
    events of each end are kept in `events`, and why a message was refused in `refused`.
    """

    def __init__(self, **tunnels) -> None:
        self.tunnels = tunnels
        self.received: dict[str, list[bytes]] = {name: [] for name in tunnels}
        self.events: dict[str, list[object]] = {name: [] for name in tunnels}
        self.refused: dict[str, list[object]] = {name: [] for name in tunnels}
        self.connections: list[Connection] = []

    def connect(self, opener: str, acceptor: str, now: float) -> tuple[Connection, Connection]:
        """Both ends of a new connection, of which nothing was carried yet."""
        ours, theirs = Connection(opener), Connection(acceptor)
        ours.other, theirs.other = theirs, ours
        ours.known = True
        self.connections += (ours, theirs)
        peer = next(known for known in self.tunnels[opener].peers if known.name == acceptor)
        self.tunnels[opener].open(peer, ours, now)
        return ours, theirs

    def settle(self, now: float) -> None:
        for _ in range(100):
            self.write(now)
            waiting = [link for link in self.connections if link.arrived and not link.closed]
            for link in waiting:
                self.read(link, now)
            if not waiting:
                return
        raise AssertionError("the ends never stop talking")

    def write(self, now: float) -> None:
        for tunnel in self.tunnels.values():
            for link, message in messages(tunnel, now):
                link.sent.append(message)
                if not link.closed:
                    link.other.arrived.append(message)

    def read(self, link: Connection, now: float) -> None:
        """Give the end what arrived, and close what it wants to have closed."""
        tunnel = self.tunnels[link.name]
        try:
            if not link.known:
                tunnel.accept_untrusted(link, link.arrived.popleft(), now)
                link.known = True
            arrived = [memoryview(message) for message in link.arrived]
            link.arrived.clear()
            if arrived:
                self.received[link.name] += map(bytes, tunnel.receive_untrusted(link, arrived, now))
        except BadPacket as bad:
            self.refused[link.name].append(bad.reason)
            self.close(link)
        self.look(link.name)

    def look(self, name: str) -> None:
        for event in events(self.tunnels[name]):
            self.events[name].append(event)
            if isinstance(event, Superseded):
                self.close(event.link)

    def close(self, link: Connection) -> None:
        """One end closes: the other reads no more either."""
        for each in (link, link.other):
            each.closed = True
            self.tunnels[each.name].close(each)

    def open(self, name: str) -> list[Connection]:
        """The connections of an end that are not closed."""
        return [link for link in self.connections if link.name == name and not link.closed]


def elapse(net: Wire | Cables, now: float, until: float, **settings) -> float:
    """Let the ends do what is due, at the moments that they tell and at no other."""
    while True:
        deadlines = [tunnel.poll_timeout() for tunnel in net.tunnels.values()]
        at = min((deadline[0] for deadline in deadlines if deadline is not None), default=until)
        if at >= until:
            return until
        now = max(now, at)
        for tunnel in net.tunnels.values():
            tunnel.handle_timeout(now)
        net.settle(now, **settings)


def point(tunnel, peer: str, link) -> None:
    """Tell the tunnel where `peer` is."""
    association(tunnel, peer).link = link


def peer_of(tunnel, name: str = ""):
    """The peer called so, or the only one."""
    return next(known for known in tunnel.peers if name in ("", known.name))


def association(tunnel, name: str = ""):
    """What carries the packets of the peer called so, or of the only one."""
    return peer_of(tunnel, name).association


# Two ends called a and b over datagrams, and one packet each for the other.

TO_B = ipv4("10.0.0.1", "10.0.0.2", b"from a to b")
TO_A = ipv4("10.0.0.2", "10.0.0.1", b"from b to a")


def everything(sender: str, receiver: str, message: bytes) -> bool:
    """For a wire that is cut."""
    return True


def pair(profile, **settings) -> Wire:
    """Two ends that know where the other is, and have not spoken."""
    a = end("a", {"b": ("10.0.0.2/32",)}, profile=profile, **settings)
    b = end("b", {"a": ("10.0.0.1/32",)}, profile=profile, **settings)
    point(a, "b", Way("b"))
    point(b, "a", Way("a"))
    return Wire(a=a, b=b)


def joined(profile, **settings) -> Wire:
    """The same with a session, which a began with a packet."""
    wire = pair(profile, **settings)
    send(wire, "a", NOW)
    assert wire.received["b"] == [TO_B]
    for tunnel in wire.tunnels.values():
        events(tunnel)
    return wire


def send(wire: Wire, name: str, now: float, **settings) -> None:
    wire.tunnels[name].enqueue([TO_B if name == "a" else TO_A], now)
    wire.settle(now, **settings)


def passes(wire: Wire, now: float) -> bool:
    """Whether packets pass both ways."""
    before = {name: len(received) for name, received in wire.received.items()}
    for name in "ab":
        send(wire, name, now)
    return all(len(wire.received[name]) == before[name] + 1 for name in "ab")


def told(tunnel, kind):
    """The events of that kind since somebody asked for events."""
    return [event for event in events(tunnel) if isinstance(event, kind)]
