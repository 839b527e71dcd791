"""Bugs that were found in other tunnels, against a real daemon: its sockets, its addresses, its log.

left: a peer made by hand, at home 192.0.2.1 and away 192.0.2.66 ──────── 192.0.2.2 right, a daemon

tests/proto/test_published_bugs.py has the rest, and the table of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE, NAME, PORT, status_when, tunneld
from tests.system.sealed import PSK, Sealed, key_of
from tunneld.edge import clock
from tunneld.lab import network, sockets
from tunneld.lab.daemon import Daemon
from tunneld.lab.host import Host
from tunneld.lab.topology import Pair
from tunneld.proto.controlchannel import HEADER, HELLO, HELLO_TYPE, PROBE_TYPE
from tunneld.proto.cookie import CookieChecker, CookieJar
from tunneld.proto.handshake import (
    Local,
    Remote,
    SentInitiation,
    consume_initiation_untrusted,
    create_initiation,
    create_response,
)
from tunneld.proto.payload import KIND_CONTROL, KIND_PACKETS
from tunneld.proto.profile import WIREGUARD, MessageType, Profile, tunneld_profile
from tunneld.proto.replay import ReplayWindow
from tunneld.proto.session import Session
from tunneld.proto.tai64n import Stamper
from tunneld.proto.wire import classify_untrusted

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

PROFILES = {"tunneld": tunneld_profile("udp", "tun", "chacha20-poly1305"), "wireguard": WIREGUARD}
AWAY = {"v4": "192.0.2.66", "v6": "2001:db8::66"}
LOAD = 300  # handshake messages, six times what brings a daemon under load
PATIENCE = 5.0  # seconds


@pytest.mark.parametrize("protocol", PROFILES)
async def test_boringtun_489_and_gotatun_159_moved_to_the_sender_of_a_cookie(hosts, protocol):
    async with at_work(hosts, protocol) as (peer, right):
        initiation = await peer.receive(peer.home, MessageType.INITIATION)
        checker = CookieChecker(peer.profile, key_of("left").public_key().raw, os.urandom)
        peer.away.send(checker.create_reply_untrusted(initiation, b"whatever", clock.now()))
        await read(right, 1)
        peer.answer(initiation)
        await peer.is_at(peer.home, hosts.right)

        again = peer.made()
        peer.home.send(again.message)
        response = await peer.receive(peer.home, MessageType.RESPONSE, index=again.sender)
        assert response[-16:] != bytes(16), "the cookie was taken"


async def test_cve_2020_11810_openvpn_floated_to_an_address_that_was_not_proved(hosts):
    async with at_work(hosts) as (peer, right):
        initiation = await peer.receive(peer.home, MessageType.INITIATION)
        peer.answer(initiation)
        await peer.is_at(peer.home, hosts.right)

        old, new = peer.sealed(), peer.sealed()
        peer.home.send(old)
        for message in (old, new[:-1] + bytes([new[-1] ^ 1]), new[:16] + bytes(16), new[:31], initiation):
            peer.away.send(message)
        # This one is authentic and new, and its answer goes to where it came from; but it may have been delayed.
        begun = peer.made()
        peer.away.send(begun.message)
        await peer.receive(peer.away, MessageType.RESPONSE, index=begun.sender)
        await peer.is_at(peer.home, hosts.right)

        peer.away.send(new)
        await read(right, 1 + 1 + 5 + 1 + 1)
        await peer.is_at(peer.away, hosts.right)


@pytest.mark.parametrize("outer", AWAY)
async def test_firezone_13811_sent_no_cookie_to_an_ipv4_address_on_a_socket_of_ipv6(hosts, outer):
    async with at_work(hosts, outer=outer) as (peer, _):

        async def answer(sock: socket.socket, sent: SentInitiation) -> bytes:
            peer.bring_under_load()
            sock.send(sent.message)
            return await peer.receive(sock, MessageType.COOKIE, MessageType.RESPONSE, index=sent.sender)

        cookie = await answer(peer.home, peer.made())
        assert len(cookie) == 64
        peer.remote.jar.consume_reply_untrusted(peer.profile, cookie, clock.now())
        proving = peer.made()
        assert [len(await answer(sock, proving)) for sock in (peer.away, peer.home)] == [64, 92]


# What would clear a terminal, name its window, begin a line of its own and colour it.
EVIL = b"\x1b[2J\x1b]0;pwned\x07\r\n00:00:00 error   pwned\x9b31m\x00\xe2\x80\xae"


async def test_cve_2024_5594_openvpn_logged_what_the_peer_wrote(hosts):
    async with at_work(hosts) as (peer, right):
        peer.answer(await peer.receive(peer.home, MessageType.INITIATION))
        await peer.is_at(peer.home, hosts.right)

        for plaintext in evil_plaintexts():
            peer.home.send(peer.sealed(plaintext))
        peer.away.send(peer.made(EVIL[:32]).message)
        for word in (*peer.profile.words.values(), b"\x81\n\x1b[", b"\x81\x03\0\0", EVIL[:4]):
            for size in (64, 92, 148):
                peer.away.send((word + EVIL * 4)[:size])
        told = {"unknown-control", "malformed", "mtu-differs", "wrong-source", "unknown-peer", "not-for-our-key"}
        await status_when(right, lambda status: told <= {cause["cause"] for cause in status["causes"]})

        shown = (await tunneld(hosts.right, "show", NAME)).output
        for line in (right.log() + shown).splitlines():
            assert line.isprintable()
            assert "pwned" not in line
        assert all(re.match(r"\d\d:\d\d:\d\d (info|warning) +\S", line) for line in right.log().split("\n")[:-1])
        assert "pwned" not in (await tunneld(hosts.right, "show", NAME, "--json")).output


def evil_plaintexts() -> Iterator[bytes]:
    """What only a peer can say, with EVIL wherever it has a choice."""
    values = [(0x1B5B, EVIL), (0x0A0D, EVIL), (HELLO_TYPE, EVIL), (PROBE_TYPE, EVIL)]
    # Well formed: the epoch, the MTU and the prefix may be anything.
    values.append((HELLO_TYPE, HELLO.pack(EVIL[:8], 0x0A1B, 0, 0x1B) + (b"\x04\x20" + EVIL[:4])))
    for kind, value in values:
        yield bytes([KIND_CONTROL]) + HEADER.pack(kind, len(value)) + value
    for first in EVIL:
        yield bytes([first]) + EVIL
    inside = ip_address(INSIDE["v4"][1]).packed
    packet = struct.pack("!BBH4xBBH4s4s", 0x45, 0, 20, 64, 17, 0, EVIL[:4], inside)
    yield bytes([KIND_PACKETS]) + struct.pack("!H", len(packet)) + packet


class Peer:
    """The left end, which the daemon on the right knows; it says what it likes, from two addresses."""

    def __init__(self, profile: Profile, *, home: socket.socket, away: socket.socket, crowd: socket.socket) -> None:
        """Sockets that are connected to the daemon; `crowd` is for messages to which no answer is looked at."""
        self.home = home
        self.away = away
        self.profile = profile
        self.remote = Remote(key_of("right").public_key().raw, PSK)
        self.session: Session
        self._crowd = crowd
        self._local = Local(profile, bytes(key_of("left").raw))
        self._stamper = Stamper()
        self._index = 0

    def made(self, private: bytes | None = None) -> SentInitiation:
        """A new initiation of ours, or of who has the key `private`."""
        self._index += 1
        return create_initiation(
            self._local if private is None else Local(self.profile, private),
            self.remote,
            sender=self._index,
            timestamp=self._stamper.next(clock.wall()),
            now=clock.now(),
            random=os.urandom,
        )

    def answer(self, initiation: bytes) -> None:
        """Answer the daemon from home: from now on there is a session."""
        received = consume_initiation_untrusted(self._local, initiation, os.urandom)
        self._index += 1
        response, keys = create_response(self._local, self.remote, received, sender=self._index, now=clock.now())
        self.session = Session(
            self.profile,
            sending_key=keys.send,
            receiving_key=keys.receive,
            local_index=self._index,
            remote_index=keys.receiver,
            initiator=False,
            born=clock.now(),
            received=ReplayWindow(),
        )
        self.home.send(response)

    def sealed(self, plaintext: bytes = b"") -> bytes:
        (message,) = self.session.seal_batch([plaintext], clock.now())
        return message

    async def receive(self, sock: socket.socket, *kinds: MessageType, index: int | None = None) -> bytes:
        """The next message of one of these kinds, to our session `index` if that is given; others are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await asyncio.get_running_loop().sock_recv(sock, 2048)
                kind = classify_untrusted(message, self.profile)
                if kind in kinds and index in (None, receiver(kind, message)):
                    return message

    async def is_at(self, sock: socket.socket, host: Host) -> None:
        """Look that what `host` sends through the tunnel comes to `sock`, and nothing at all to the other one."""
        other = self.away if sock is self.home else self.home
        with contextlib.suppress(BlockingIOError):
            while other.recv(2048):
                pass
        packet = os.urandom(16)
        with sockets.udp(host, connect=(INSIDE["v4"][0], 9)) as inside:
            inside.send(packet)
        opened = b""
        while packet not in opened:
            message = await self.receive(sock, MessageType.DATA, index=self.session.local_index)
            opened = b"".join(self.session.open_batch_untrusted([message], clock.now()).plaintexts)
        with pytest.raises(BlockingIOError):
            other.recv(2048)

    def bring_under_load(self) -> None:
        """So many messages for the daemon's key that it asks for cookies in the next second."""
        for _ in range(LOAD):
            body = self.profile.words[MessageType.INITIATION] + os.urandom(112)
            self._crowd.send(body + b"".join(CookieJar(self.remote.public).macs(body, 0.0)))


def receiver(kind: MessageType, message: bytes) -> int | None:
    """Which of our sessions a message is for; none if it begins one."""
    start = {MessageType.RESPONSE: 8, MessageType.COOKIE: 4, MessageType.DATA: 4}.get(kind)
    return None if start is None else int.from_bytes(message[start : start + 4], "little")


@contextlib.asynccontextmanager
async def at_work(hosts: Pair, protocol: str = "tunneld", outer: str = "v4") -> AsyncIterator[tuple[Peer, Daemon]]:
    """A peer by hand on the left, and a daemon on the right that calls it at home."""
    if outer == "v6" and not network.HAS_IPV6:
        missing("the kernel has no IPv6")
    away = AWAY[outer]
    await network.give(hosts.left, "eth0", f"{away}/{64 if outer == 'v6' else 24}")
    target = (getattr(hosts, f"right_{outer}"), PORT)
    with ExitStack() as stack:
        home, elsewhere, crowd = (
            stack.enter_context(sockets.udp(hosts.left, bind=bind, connect=target))
            for bind in ((getattr(hosts, f"left_{outer}"), PORT), (away, PORT + 1), (away, PORT + 2))
        )
        setup = Sealed(protocol=protocol, outer=outer)  # listens on a socket of IPv6 that takes IPv4 as well
        right = Daemon.start(hosts.right, setup.right(hosts), name=NAME)
        await right.wait_ready()
        yield Peer(PROFILES[protocol], home=home, away=elsewhere, crowd=crowd), right
        assert await right.stop() == 0
        assert "Traceback" not in right.log()


async def read(daemon: Daemon, count: int) -> None:
    """Wait until the daemon has read so many datagrams."""
    await status_when(daemon, lambda status: status["counters"]["link_received_messages"] >= count)
