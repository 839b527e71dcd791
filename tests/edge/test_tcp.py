from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import socket
import struct
import threading
from contextlib import closing
from ipaddress import ip_interface

import pytest

from tests.edge.pairs import borrowed, link_and_socket, open_descriptors, readable, receive, tcp_links, until
from tunneld.config import Endpoint
from tunneld.edge import clock, tcp
from tunneld.edge.device import Device
from tunneld.edge.tcp import TcpLink
from tunneld.lab import network, sockets, topology
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import IFA_F_NODAD, AddressAdd, LinkSet
from tunneld.proto import framing
from tunneld.proto.errors import LinkDown

LOOPBACK = Endpoint("127.0.0.1", 0)


# --- receiving


async def test_every_split_in_two_gives_the_same_messages():
    sent = [b"", b"a", b"", b"bc" * 20, bytes(130)]
    stream = framing.encode(sent)
    async with link_and_socket() as (link, peer):
        for cut in range(1, len(stream)):
            peer.sendall(stream[:cut])
            assert readable(link.fileno())
            got = [bytes(message) for message in link.recv_batch(0.0)]
            peer.sendall(stream[cut:])
            got += receive(link, len(sent) - len(got))
            assert got == sent, cut


async def test_one_byte_at_a_time():
    sent = [b"", b"x", bytes(range(256))]
    async with link_and_socket() as (link, peer):
        got = []
        for octet in framing.encode(sent):
            peer.sendall(bytes([octet]))
            assert readable(link.fileno())
            got += map(bytes, link.recv_batch(0.0))
        assert got == sent


async def test_every_length_is_received_and_none_ends_the_stream():
    sent = [b"", b"\x01", bytes(2001), bytes(65_535), b"", b"last"]
    async with link_and_socket() as (link, peer):
        writer = threading.Thread(target=peer.sendall, args=(framing.encode(sent),))
        writer.start()
        got = receive(link, len(sent))
        writer.join()
    assert got == sent


@pytest.mark.parametrize("seed", range(3))
async def test_junk_is_messages_too(seed):
    junk = random.Random(seed).randbytes(1 << 20)
    expected, at = [], 0
    while at + 2 <= len(junk) and at + 2 + int.from_bytes(junk[at : at + 2], "big") <= len(junk):
        end = at + 2 + int.from_bytes(junk[at : at + 2], "big")
        expected.append(junk[at + 2 : end])
        at = end
    async with link_and_socket() as (link, peer):
        writer = threading.Thread(target=peer.sendall, args=(junk,))
        writer.start()
        got = receive(link, len(expected))
        writer.join()
    assert got == expected


async def test_a_stream_of_zero_lengths_is_read_in_small_turns():
    """Each of them costs time: a turn that took all that waits would hold the loop up for long."""
    async with link_and_socket() as (link, peer):
        with borrowed(link) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        writer = threading.Thread(target=peer.sendall, args=(bytes(1 << 18),))
        writer.start()
        total = 0
        while total < 1 << 17:
            assert link.more or readable(link.fileno())
            count = len(link.recv_batch(0.0))
            assert count <= framing.TURN_RECORDS
            total += count
        writer.join()
        assert total == 1 << 17


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"", "the peer closed the connection"),
        (b"\x05ab", "the peer closed the connection in the middle of a packet"),
    ],
)
async def test_an_end_is_named(rest, words):
    async with link_and_socket() as (link, peer):
        peer.sendall(rest)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(LinkDown, match=f"^{words}$"):
            await until(lambda: link.recv_batch(0.0))


async def test_a_reset_is_named():
    async with link_and_socket() as (link, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert readable(link.fileno())
        with pytest.raises(LinkDown, match="Connection reset by peer"):
            link.recv_batch(0.0)


# --- sending


async def test_a_slow_reader_gets_every_byte_in_order():
    """A window of next to nothing: nearly every write is a partial one."""
    source = random.Random(3)
    sizes = [source.choice([1, 20, 1400, 9000, 65_535]) for _ in range(150)]
    messages = [source.randbytes(size) for size in sizes]
    expected = hashlib.sha256(framing.encode(messages)).hexdigest()
    total = sum(sizes) + 2 * len(sizes)
    received = hashlib.sha256()

    def read_slowly() -> None:
        left = total
        while left:
            piece = peer.recv(source.randint(1, 3000))
            received.update(piece)
            left -= len(piece)

    async with link_and_socket(receive_buffer=1024) as (link, peer):
        with borrowed(link) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader = threading.Thread(target=read_slowly)
        reader.start()
        partial = 0
        while messages or link.blocked:
            taken = link.send_batch(messages[: source.randint(1, 16)])
            del messages[:taken]
            partial += link.blocked
            link.flush()
            await asyncio.sleep(0)
        await asyncio.to_thread(reader.join, 30)
        assert partial > 100
    assert received.hexdigest() == expected


async def test_a_peer_that_does_not_read_costs_512_kib_and_no_more():
    async with link_and_socket() as (link, peer):
        message = bytes(1400)
        taken = 0
        for _ in range(10_000):
            taken += link.send_batch([message] * 16)
            assert link._unsent_bytes <= tcp.UNSENT_LIMIT
        assert link.blocked
        assert link._unsent_bytes > tcp.UNSENT_LIMIT - 1402
        assert link.send_batch([message]) == 0
        link.flush()

        def read_all() -> int:
            left = taken * 1402
            while left:
                left -= len(peer.recv(1 << 16))
            return left

        reading = asyncio.get_running_loop().run_in_executor(None, read_all)
        while link.blocked:
            link.flush()
            await asyncio.sleep(0.001)
        assert await reading == 0
        assert link._unsent_bytes == 0
        assert link.send_batch([message]) == 1


async def test_a_batch_that_does_not_fit_is_cut_between_messages():
    async with link_and_socket(receive_buffer=1024) as (link, _peer):
        while link.send_batch([bytes(60_000)] * 4) == 4:
            pass
        room = tcp.UNSENT_LIMIT - link._unsent_bytes
        assert link.send_batch([bytes(room - 3), b"", b"x"]) == 1
        assert link._unsent_bytes == tcp.UNSENT_LIMIT - 1


# --- making connections


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_ends_have_the_options_that_find_a_dead_peer(host):
    wanted = {"TCP_NODELAY": 1, "TCP_USER_TIMEOUT": 10_000, "TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 2}
    async with tcp_links(host) as links:
        for link in links:
            assert os.get_blocking(link.fileno()) is False
            with borrowed(link) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                found = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in wanted}
                assert found == wanted


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_a_link_knows_its_ends_and_who_opened_it(host, shown):
    async with tcp_links(host) as (connected, accepted):
        assert connected.opened_by_us
        assert not accepted.opened_by_us
        assert connected.opener == accepted.opener == connected.local == accepted.remote
        assert str(connected) == f"tcp {shown}:{connected.local[1]} → {shown}:{connected.remote[1]}"
        assert str(accepted) == f"tcp {shown}:{accepted.local[1]} ← {shown}:{accepted.remote[1]}"


async def test_an_ipv4_peer_of_a_dual_stack_listener_is_shown_as_ipv4():
    with closing(tcp.listen(Endpoint("::", 0))) as listener:
        connected = await tcp.connect(("127.0.0.1", listener.getsockname()[1]))
        accepted = await tcp.accept(listener)
        with closing(connected), closing(accepted):
            assert accepted.remote == connected.local
            assert accepted.remote[0] == "127.0.0.1"


async def test_a_listener_on_one_ipv6_address_does_not_take_ipv4():
    with closing(tcp.listen(Endpoint("::1", 0))) as listener, pytest.raises(LinkDown, match="Connection refused"):
        await tcp.connect(("127.0.0.1", listener.getsockname()[1]))


async def test_a_port_that_is_taken_or_an_address_that_is_not_ours_is_an_oserror():
    with closing(tcp.listen(LOOPBACK)) as listener, pytest.raises(OSError, match="in use"):
        tcp.listen(Endpoint("127.0.0.1", listener.getsockname()[1]))
    with pytest.raises(OSError, match=r"[Cc]annot assign"):
        tcp.listen(Endpoint("203.0.113.1", 0))


async def test_the_port_is_free_again_at_once_after_a_connection():
    async with tcp_links() as (connected, accepted):
        accepted.close()
        assert readable(connected.fileno())
        tcp.listen(Endpoint("127.0.0.1", connected.remote[1])).close()


async def test_a_connection_can_be_made_from_a_given_address():
    with closing(tcp.listen(LOOPBACK)) as listener:
        link = await tcp.connect(listener.getsockname(), source=("127.0.0.9", 0))
        with closing(link), closing(await tcp.accept(listener)) as accepted:
            assert link.local[0] == accepted.remote[0] == "127.0.0.9"


async def test_a_link_local_address_keeps_its_scope(namespaces):
    async with Kernel.open() as kernel:
        with closing(Device.open("scope0", "tap")), closing(tcp.listen(Endpoint("::", 0))) as listener:
            await kernel.execute(LinkSet("scope0", "state", "up", "down"))
            await kernel.execute(AddressAdd("scope0", ip_interface("fe80::5/64"), flags=IFA_F_NODAD, protocol=0))
            target = ("fe80::5", listener.getsockname()[1], 0, socket.if_nametoindex("scope0"))
            with closing(await tcp.connect(target)) as link, closing(await tcp.accept(listener)):
                assert link.remote == target


async def test_what_refuses_or_cannot_be_reached_is_named():
    with closing(tcp.listen(LOOPBACK)) as listener:
        free = listener.getsockname()
    with pytest.raises(LinkDown, match=rf"^127\.0\.0\.1:{free[1]}: Connection refused$"):
        await tcp.connect(free)
    with pytest.raises(LinkDown, match=r"^203\.0\.113\.1:1: Network is unreachable$"):
        await tcp.connect(("203.0.113.1", 1))


async def test_silence_is_waited_for_only_so_long(monkeypatch):
    monkeypatch.setattr(tcp, "CONNECT_TIMEOUT", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full:
        others = [socket.socket() for _ in range(3)]
        for other in others:  # a full backlog drops what else comes
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        before = open_descriptors()
        with pytest.raises(LinkDown, match="does not answer"):
            await tcp.connect(full.getsockname())
        assert open_descriptors() == before
        for other in others:
            other.close()


@pytest.mark.parametrize("turns", range(5))
async def test_cancelling_leaves_no_descriptor_open(turns):
    before = open_descriptors()
    for _ in range(20):
        with closing(tcp.listen(LOOPBACK)) as listener:
            made: list[TcpLink] = []

            async def connect(made=made, listener=listener):
                made.append(await tcp.connect(listener.getsockname()))

            async def accept(made=made, listener=listener):
                made.append(await tcp.accept(listener))

            async with asyncio.TaskGroup() as tasks:
                both = [tasks.create_task(connect()), tasks.create_task(accept())]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in both:
                    task.cancel()
            for link in made:
                link.close()
    await until(lambda: open_descriptors() == before)


async def test_no_descriptor_left_is_an_oserror_and_passes():
    with closing(tcp.listen(LOOPBACK)) as listener, socket.create_connection(listener.getsockname()):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                await tcp.accept(listener)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        (await tcp.accept(listener)).close()


async def test_no_descriptor_left_to_connect_with_is_the_worlds_fault():
    with socket.create_server(("127.0.0.1", 0)) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(LinkDown, match="Too many open files"):
                await tcp.connect(server.getsockname())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_socket_that_is_not_connected_is_refused_and_closed():
    sock = socket.socket()
    with pytest.raises(LinkDown, match="not connected"):
        TcpLink(sock, opened_by_us=True)
    assert sock.fileno() == -1


# --- half-open


async def test_silence_is_counted_from_the_last_sign_of_the_peer():
    async with link_and_socket() as (link, peer):
        await until(lambda: link.silence() > 0.1)
        peer.sendall(b"\0\0")
        receive(link, 1)
        assert link.silence() < 0.1
        await until(lambda: link.silence() > 0.1)
        link.send_batch([b"x"])
        await until(lambda: link.silence() < 0.1)


async def test_a_link_that_was_given_up_ends_with_the_next_read():
    async with link_and_socket() as (link, _peer):
        link.give_up("nobody is there")
        assert readable(link.fileno())
        with pytest.raises(LinkDown, match=r"^nobody is there$"):
            link.recv_batch(0.0)


@pytest.mark.long
@pytest.mark.parametrize("state", ["idle", "sending"])
async def test_a_half_open_connection_is_found_within_15_seconds(namespaces, state):
    """left eth0 ─✂─ eth0 right: no RST, no FIN, nothing at all."""
    async with topology.Lab.open() as lab:
        pair = await topology.pair(lab)
        with closing(sockets.tcp_listener(pair.right, (pair.right_v4, 5000))) as listener:
            sock = await sockets.tcp_connect(pair.left, (pair.right_v4, 5000))
            with closing(TcpLink(sock, opened_by_us=True)) as link, closing(await tcp.accept(listener)):
                await network.set_state(pair.right, "eth0", "down")
                cut = clock.now()
                if state == "sending":
                    link.send_batch([bytes(1000)])
                with pytest.raises(LinkDown, match=r"timed out|No route to host"):
                    await until(lambda: readable(link.fileno(), 0) and link.recv_batch(0.0), 20)
                assert clock.now() - cut <= 15
