from __future__ import annotations

import asyncio
import socket
from contextlib import closing, contextmanager

import pytest

from tests.edge.pairs import readable, receive, until
from tunneld.config import Endpoint
from tunneld.edge import udp
from tunneld.edge.udp import UdpLink
from tunneld.lab import network, topology
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.source import FirstSender, FixedSource

LOOPBACK = Endpoint("127.0.0.1", 0)


@contextmanager
def link_to(address, endpoint=LOOPBACK):
    source = FixedSource()
    source.address = address
    with closing(UdpLink(udp.open_bound(endpoint), source)) as link:
        yield link


@contextmanager
def bare_socket(host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock


@contextmanager
def watched(link):
    """What the running loop reads from the link: one tuple of datagrams a wake."""
    wakes = []
    loop = asyncio.get_running_loop()
    loop.add_reader(link.fileno(), lambda: wakes.append(tuple(map(bytes, link.recv_batch(0.0)))))
    try:
        yield wakes
    finally:
        loop.remove_reader(link.fileno())


def nobody() -> tuple[str, int]:
    """An address where nobody is any more."""
    with bare_socket() as sock:
        return sock.getsockname()


async def test_only_the_peer_is_listened_to_and_strangers_are_counted():
    with bare_socket() as peer, bare_socket() as stranger, link_to(peer.getsockname()) as link:
        for _ in range(3):
            stranger.sendto(b"stranger", link.local)
        peer.sendto(b"peer", link.local)
        assert receive(link, 1) == [b"peer"]
        assert link.drops == {Reason.STRANGER: 3}


async def test_another_port_of_the_peers_host_is_a_stranger_too():
    with bare_socket("127.0.0.1") as peer, bare_socket("127.0.0.1") as other, link_to(peer.getsockname()) as link:
        other.sendto(b"x", link.local)
        assert readable(link.fileno())
        assert link.recv_batch(5.0) == []
        assert link.heard is None


async def test_datagrams_full_of_lengths_of_zero_are_read_in_small_turns():
    with bare_socket() as peer, link_to(peer.getsockname()) as link:
        for _ in range(4):
            peer.sendto(bytes(65_507), link.local)
        assert readable(link.fileno())
        assert sum(map(len, link.recv_batch(0.0))) <= udp.TURN_BYTES + 65_507
        assert sum(map(len, receive(link, 2))) == 2 * 65_507


async def test_without_a_peer_everything_sent_is_counted():
    with link_to(None) as link:
        assert link.send_batch([b"a", b"b"]) == 2
        assert link.drops == {Reason.NO_PEER: 2}
        assert str(link).endswith("→ anybody")


async def test_the_first_sender_is_answered_and_kept_until_it_was_silent():
    source = FirstSender()
    with (
        bare_socket() as first,
        bare_socket() as second,
        closing(UdpLink(udp.open_bound(LOOPBACK), source)) as link,
    ):
        for sock in (first, second):
            sock.settimeout(5)

        def hear(sock, now):
            sock.sendto(b"here", link.local)
            assert readable(link.fileno())
            got = [bytes(datagram) for datagram in link.recv_batch(now)]
            link.send_batch([b"answer"])
            return got

        assert hear(first, 100.0) == [b"here"]
        assert first.recv(100) == b"answer"
        assert hear(second, 159.9) == []
        assert first.recv(100) == b"answer"
        assert link.heard == 100.0
        assert hear(second, 160.0) == [b"here"]
        assert second.recv(100) == b"answer"
        assert hear(first, 161.0) == []


async def test_an_ipv4_peer_of_a_dual_stack_socket():
    with closing(UdpLink(udp.open_bound(Endpoint("::", 0)), FirstSender())) as link, bare_socket() as peer:
        peer.settimeout(5)
        peer.sendto(b"four", ("127.0.0.1", link.local[1]))
        assert receive(link, 1) == [b"four"]
        link.send_batch([b"back"])
        assert peer.recv(100) == b"back"
        assert str(link).endswith(f"→ 127.0.0.1:{peer.getsockname()[1]}")


async def test_a_wildcard_socket_for_connecting_reaches_both_families():
    source = FixedSource()
    with (
        closing(UdpLink(udp.open_unbound(), source)) as link,
        bare_socket("127.0.0.1") as four,
        bare_socket("::1") as six,
    ):
        for peer, address in ((four, ("::ffff:127.0.0.1", four.getsockname()[1], 0, 0)), (six, six.getsockname())):
            source.address = address
            link.send_batch([b"x"])
            peer.settimeout(5)
            datagram, sender = peer.recvfrom(100)
            assert datagram == b"x"
            peer.sendto(b"y", sender)
            assert receive(link, 1) == [b"y"]


async def test_a_refusal_is_trouble_until_the_peer_is_heard():
    where = nobody()
    with link_to(where) as link:
        link.send_batch([b"anybody?"])
        assert readable(link.fileno())
        assert link.recv_batch(0.0) == []
        assert link.trouble == "Connection refused"
        assert not readable(link.fileno(), 0), "the loop would spin"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(where)
            peer.sendto(b"now", link.local)
            assert receive(link, 1) == [b"now"]
        assert link.trouble == ""


async def test_the_loop_still_watches_after_a_refusal():
    """uvloop takes a descriptor for broken at EPOLLERR and never looks at it again."""
    where = nobody()
    with link_to(where) as link, watched(link) as wakes:
        for _ in range(3):
            before = len(wakes)
            link.send_batch([b"anybody?"])
            await until(lambda before=before: len(wakes) > before)
        assert set(wakes) == {()}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(where)
            peer.sendto(b"now", link.local)
            await until(lambda: (b"now",) in wakes)
        before = len(wakes)
        link.send_batch([b"somebody?"])
        await until(lambda: len(wakes) > before)


async def test_a_datagram_that_is_too_long_is_counted_and_no_trouble():
    with bare_socket() as peer, link_to(peer.getsockname()) as link:
        peer.settimeout(5)
        assert link.send_batch([bytes(65_508), b"fits"]) == 2
        assert peer.recv(100) == b"fits"
        assert link.drops == {Reason.SEND_REFUSED: 1}
        assert link.trouble == ""


async def test_no_route_is_trouble_and_counted():
    with link_to(("203.0.113.1", 1), Endpoint("0.0.0.0", 0)) as link:
        assert link.send_batch([b"x", b"y"]) == 2
        assert link.drops == {Reason.SEND_REFUSED: 2}
        assert link.trouble == "Network is unreachable"


async def test_a_full_socket_is_counted_and_loses_only_what_did_not_fit(namespaces):
    """A neighbour that never answers ARP keeps what is sent to it, up to a bound."""
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        await network.set_state(hosts.right, "eth0", "down")
        sock = hosts.left.call(lambda: udp.open_bound(Endpoint("0.0.0.0", 0)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        source = FixedSource()
        source.address = (hosts.right_v4, 1)
        with closing(UdpLink(sock, source)) as link:
            assert link.send_batch([bytes(1000)] * 50) == 50
            assert link.drops[Reason.QUEUE_FULL] > 0
            assert set(link.drops) <= {Reason.QUEUE_FULL, Reason.SEND_REFUSED}


async def test_a_socket_that_broke_is_the_worlds_fault():
    with bare_socket() as peer:
        sock = udp.open_bound(LOOPBACK)
        sock.connect(peer.getsockname())
        sock.shutdown(socket.SHUT_WR)
        source = FixedSource()
        source.address = peer.getsockname()
        with closing(UdpLink(sock, source)) as link, pytest.raises(LinkDown, match=r"^Broken pipe$"):
            link.send_batch([b"x"])


async def test_the_longest_datagram_passes():
    with bare_socket() as peer, link_to(peer.getsockname()) as link:
        peer.sendto(bytes(65_507), link.local)
        assert receive(link, 1) == [bytes(65_507)]
        peer.settimeout(5)
        link.send_batch([bytes(65_507)])
        assert len(peer.recv(1 << 17)) == 65_507


async def test_a_port_that_is_taken_is_an_oserror():
    with bare_socket() as other, pytest.raises(OSError, match="in use"):
        udp.open_bound(Endpoint("127.0.0.1", other.getsockname()[1]))
