"""Ends of a sealed tunnel over TCP on the loopback, without a device; and whoever else comes to their port.

What arrives for the device is counted as `no-device`, which proves that it did.
"""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.edge.pairs import until
from tests.links.peers import Clock, running
from tests.proto.ends import end, ipv4, peer_of, private, public
from tunneld.config import Endpoint, PeerConfig
from tunneld.diagnosis import Diagnosis
from tunneld.edge import tcp
from tunneld.keys import PublicKey
from tunneld.links.roster import Roster
from tunneld.links.state import PeerState
from tunneld.links.streams import StreamPeers
from tunneld.proto import handshake
from tunneld.proto.errors import Reason
from tunneld.proto.framing import encode
from tunneld.proto.handshake import Local, Remote
from tunneld.proto.profile import tunneld_profile
from tunneld.proto.replay import Succession
from tunneld.proto.session import Session
from tunneld.proto.tai64n import stamp
from tunneld.pump import Pump

TCP = tunneld_profile("tcp", "tun", "chacha20-poly1305")
LOOPBACK = Endpoint("127.0.0.1", 0)
INDEX = 7
SHORT = 0.6  # seconds, in the place of the 5 of the handshake


def inside(name: str) -> str:
    """The address of an end inside the tunnel."""
    return f"10.0.0.{ord(name[0])}"


class End:
    """One end, called by a letter. `peers` gives the endpoints of each; `history` keeps their states and reasons."""

    def __init__(
        self,
        name: str,
        peers: dict[str, tuple[Endpoint, ...]],
        *,
        listen: Endpoint | None = None,
        keepalive: int = 0,
        seed: int = 0,
        started: float = 1.7e9,
    ) -> None:
        """`started` is the wall clock; who starts again does so later."""
        self.clock = Clock()
        self.history: dict[str, list[tuple[str, str]]] = {peer: [] for peer in peers}
        self.states = {peer: PeerState(peer, self.clock, lambda: self._note()) for peer in peers}
        self.tunnel = end(
            name, {peer: (f"{inside(peer)}/32",) for peer in peers}, profile=TCP, keepalive=keepalive, floor=started
        )
        self.pump = Pump(self.tunnel, self.clock)
        bound = None if listen is None else tcp.listen(listen)
        self.at = None if bound is None else Endpoint(*bound.getsockname()[:2])
        self.streams = StreamPeers(
            self.pump,
            self.tunnel,
            Roster(
                {peer: PeerConfig(peer, endpoints, keepalive=keepalive) for peer, endpoints in peers.items()},
                self.states,
                Diagnosis(
                    "t", self.states, ours=PublicKey(public(name)), settings="as in the tests", clock=self.clock
                ),
            ),
            bound=bound,
            clock=self.clock,
            random=random.Random(seed).random,
        )
        self.name = name

    def run(self):
        return self.streams.run()

    def now(self, peer: str) -> str:
        state = self.states[peer]
        return f"{state.state.value}: {state.reason}"

    def up(self, peer: str) -> bool:
        return peer_of(self.tunnel, peer).association is not None

    def send(self, peer: str, count: int = 1, size: int = 100) -> None:
        """So many packets to the peer, as if the device had given them."""
        packet = ipv4(inside(self.name), inside(peer), bytes(size - 20))
        self.tunnel.enqueue([packet] * count, self.clock())
        self.pump.kick()

    def say_goodbye(self) -> None:
        self.tunnel.say_goodbye(self.clock())
        self.pump.kick()

    @property
    def received(self) -> int:
        """Packets that came over any connection."""
        return self.pump.drops()[Reason.NO_DEVICE]

    @property
    def ports(self) -> int:
        """Connections that the pump carries."""
        return len(self.pump._ports)

    def _note(self) -> None:
        for peer, state in self.states.items():
            change = (state.state.value, state.reason)
            if self.history[peer][-1:] != [change]:
                self.history[peer].append(change)


def listening(at: Endpoint = LOOPBACK, **settings) -> End:
    """The end a, which b comes to."""
    return End("a", {"b": ()}, listen=at, **settings)


def calling(to: End, **settings) -> End:
    """The end b, which connects to a."""
    return End("b", {"a": (to.at,)}, **settings)


@asynccontextmanager
async def joined(**settings) -> AsyncIterator[tuple[End, End]]:
    a = listening(**settings)
    b = calling(a, **settings)
    async with running(a.run(), b.run()):
        await until(lambda: a.up("b") and b.up("a"))
        yield a, b


async def passes(one: End, other: End, name: str = "b") -> None:
    """Wait until a packet of `one` arrives at the `other`, which is called `name`."""
    before = other.received
    one.send(name)
    await until(lambda: other.received > before)


class Visitor:
    """A TCP connection to an end, whose other side the test plays. Its socket does not block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock

    @classmethod
    async def come(cls, at: Endpoint, source: str = "127.0.0.1") -> Visitor:
        sock = socket.socket()
        sock.setblocking(False)
        # So that thousands of them find a port.
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, (at.host, at.port))
        return cls(sock)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def message(self) -> bytes:
        """The next message, without its length. Raises EOFError."""
        (length,) = struct.unpack("!H", await self._exactly(2))
        return await self._exactly(length)

    async def rest(self) -> tuple[bytes, str]:
        """All that still comes, and how the connection ended: "end" or "reset"."""
        loop, got = asyncio.get_running_loop(), b""
        try:
            while piece := await loop.sock_recv(self.sock, 65536):
                got += piece
        except ConnectionResetError:
            return got, "reset"
        return got, "end"

    async def over(self) -> None:
        """Wait until it is closed at the other side."""
        with suppress(OSError):
            await self.rest()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = await asyncio.get_running_loop().sock_recv(self.sock, count - len(got))
            if not piece:
                raise EOFError
            got += piece
        return got


async def called(server: socket.socket) -> Visitor:
    """The next connection to the server."""
    return Visitor((await asyncio.wait_for(asyncio.get_running_loop().sock_accept(server), 5))[0])


@dataclass
class Impostor:
    """Who has the keys of the end called `name`, and does with them what it wants. Times are wall seconds."""

    name: str
    to: str
    made: float = 1.8e9

    def initiation(self) -> bytes:
        """A new one, framed."""
        self.made += 1
        self._local = Local(TCP, private(self.name))
        self._sent = handshake.create_initiation(
            self._local,
            Remote(public(self.to)),
            sender=INDEX,
            timestamp=stamp(self.made),
            now=0.0,
            random=random.Random(self.made).randbytes,
        )
        return encode([self._sent.message])

    def session(self, response: bytes) -> Session:
        keys = handshake.consume_response_untrusted(self._local, self._sent, response)
        return Session(
            TCP,
            sending_key=keys.send,
            receiving_key=keys.receive,
            local_index=INDEX,
            remote_index=keys.receiver,
            initiator=True,
            born=0.0,
            received=Succession(),
        )

    async def join(self, visitor: Visitor) -> Session:
        """Do the handshake and prove to have the keys."""
        await visitor.send(self.initiation())
        session = self.session(await visitor.message())
        await visitor.send(encode(session.seal_batch([b""], 0.0)))
        return session


def key_text(name: str) -> str:
    return base64.b64encode(public(name)).decode()


def sources() -> Iterator[str]:
    """Addresses of the loopback, each another."""
    for number in range(2, 65000):
        yield f"127.0.{number // 250}.{number % 250 + 1}"


def unread(at: Endpoint, visitor: Visitor) -> int:
    """Bytes that wait unread at the end's side of the connection."""
    port = visitor.sock.getsockname()[1]
    with open("/proc/self/net/tcp") as lines:
        rows = [line.split() for line in list(lines)[1:]]
    (queue,) = {
        row[4]
        for row in rows
        if int(row[1].rpartition(":")[2], 16) == at.port and int(row[2].rpartition(":")[2], 16) == port
    }
    return int(queue.partition(":")[2], 16)
