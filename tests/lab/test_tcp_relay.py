"""client ── listen │ relay │ ── target, all on the loopback of one host"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import socket
from contextlib import asynccontextmanager

import pytest

from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.impairment import Impairment
from tunneld.lab.tcp_relay import HELD, TcpRelay

LISTEN = ("127.0.0.1", 4000)
TARGET = ("127.0.0.1", 5000)


@asynccontextmanager
async def through(host, relay):
    """The two ends of one connection through the relay."""
    with sockets.tcp_listener(host, TARGET) as listener:
        async with asyncio.timeout(5):
            client = await sockets.tcp_connect(host, LISTEN)
            await readable(listener.fileno())
        server, _ = listener.accept()
        server.setblocking(False)
    with client, server:
        yield client, server


async def receive(sock, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(20):
        while len(data) < size and (piece := await loop.sock_recv(sock, size - len(data))):
            data += piece
    return data


async def send(sock, data: bytes) -> None:
    async with asyncio.timeout(20):
        await asyncio.get_running_loop().sock_sendall(sock, data)


@pytest.mark.parametrize(
    ("impairment", "size"),
    [
        (Impairment(), 8_000_000),
        (Impairment(delay=0.02, jitter=0.01), 4_000_000),
        (Impairment(segment=1), 3_000),
        (Impairment(segment=1500, jitter=0.001), 500_000),
    ],
    ids=["clean", "late", "byte-by-byte", "in-pieces"],
)
async def test_every_byte_passes_in_order_both_ways_at_once(host, impairment, size):
    data = random.Random(1).randbytes(size)
    with TcpRelay(host, LISTEN, TARGET, impairment=impairment) as relay:
        async with through(host, relay) as (client, server), asyncio.TaskGroup() as tasks:
            tasks.create_task(send(client, data))
            tasks.create_task(send(server, data[::-1]))
            there = tasks.create_task(receive(server, size))
            back = tasks.create_task(receive(client, size))
    assert hashlib.sha256(there.result()).digest() == hashlib.sha256(data).digest()
    assert back.result() == data[::-1]


async def test_delay_holds_in_each_direction(host):
    loop = asyncio.get_running_loop()
    with TcpRelay(host, LISTEN, TARGET, impairment=Impairment(delay=0.05)) as relay:
        async with through(host, relay) as (client, server):
            began = loop.time()
            await send(client, b"ping")
            assert await receive(server, 4) == b"ping"
            assert loop.time() - began >= 0.045
            await send(server, b"pong")
            assert await receive(client, 4) == b"pong"
            assert loop.time() - began >= 0.09


async def test_an_end_of_file_passes_after_the_last_byte_and_leaves_the_other_direction_open(host):
    with TcpRelay(host, LISTEN, TARGET, impairment=Impairment(delay=0.02)) as relay:
        async with through(host, relay) as (client, server):
            await send(client, b"last")
            client.shutdown(socket.SHUT_WR)
            assert await receive(server, 100) == b"last"
            await send(server, b"answer")
            assert await receive(client, 6) == b"answer"
            server.shutdown(socket.SHUT_WR)
            assert await receive(client, 1) == b""
            assert relay.connections == 0


async def test_corruption_flips_a_bit_and_keeps_the_length(host):
    with TcpRelay(host, LISTEN, TARGET, impairment=Impairment(corrupt=1.0)) as relay:
        async with through(host, relay) as (client, server):
            await send(client, bytes(100))
            assert int.from_bytes(await receive(server, 100), "big").bit_count() == 1


async def test_reset_ends_both_sides_by_rst_and_the_next_connection_is_served(host):
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay) as (client, server):
            relay.reset()
            for end in (client, server):
                with pytest.raises(ConnectionResetError):
                    await receive(end, 1)
        async with through(host, relay) as (client, server):
            await send(client, b"x")
            assert await receive(server, 1) == b"x"
        assert relay.accepted == 2


async def test_finish_ends_both_sides_by_fin(host):
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay) as (client, server):
            relay.finish()
            assert [await receive(client, 1), await receive(server, 1)] == [b"", b""]


async def test_a_half_open_connection_acknowledges_nothing_and_keepalive_finds_it(host):
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay) as (client, server):
            for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
                client.setsockopt(socket.IPPROTO_TCP, option, value)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            relay.half_open()
            with pytest.raises(TimeoutError) as caught:
                await receive(client, 1)
            assert caught.value.errno == errno.ETIMEDOUT
            assert relay.connections == 1
        async with through(host, relay) as (client, server):
            await send(client, b"x")
            assert await receive(server, 1) == b"x"


async def test_a_stalled_relay_stops_reading_and_goes_on_where_it_stopped(host):
    data = random.Random(2).randbytes(16_000_000)
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay) as (client, server):
            relay.stall()
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(send(client, data))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await readable(server.fileno())
                assert not sending.done()
                relay.resume()
                assert await receive(server, len(data)) == data


async def test_a_reader_that_stops_is_felt_by_the_writer(host):
    """The relay holds a bounded number of bytes, and then the kernel's window closes."""
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay) as (client, server):
            for sock in (client, server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.get_running_loop().sock_sendall(client, bytes(32 * HELD))


async def test_what_a_slow_reader_made_wait_arrives_whole(host):
    data = random.Random(3).randbytes(12_000_000)
    with TcpRelay(host, LISTEN, TARGET, impairment=Impairment(segment=60_001)) as relay:
        async with through(host, relay) as (client, server), asyncio.TaskGroup() as tasks:
            tasks.create_task(send(client, data))
            received = b""
            while len(received) < len(data):
                await asyncio.sleep(0.002)  # long enough for the buffers to fill, so that writes are cut short
                received += await receive(server, min(150_000, len(data) - len(received)))
    assert received == data


async def test_a_refusing_target_is_a_reset_for_the_client(host):
    with (
        TcpRelay(host, LISTEN, TARGET),
        await sockets.tcp_connect(host, LISTEN) as client,
        pytest.raises(ConnectionResetError),
    ):
        await receive(client, 1)


async def test_what_tcp_cannot_do_is_refused(host):
    with TcpRelay(host, LISTEN, TARGET) as relay:
        async with through(host, relay):
            with pytest.raises(ValueError, match="neither loses"):
                relay.impair(Impairment(loss=0.1))
