"""client ── listen │ relay │ own port for each client ── target, all on the loopback of one host"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.impairment import Event, Impairment
from tunneld.lab.udp_relay import UdpRelay

LISTEN = ("127.0.0.1", 4000)
TARGET = ("127.0.0.1", 5000)


@pytest.fixture
def server(host):
    with sockets.udp(host, bind=TARGET) as sock:
        yield sock


@pytest.fixture
def client(host):
    with sockets.udp(host, connect=LISTEN) as sock:
        yield sock


async def receive(sock) -> tuple[bytes, tuple[str, int]]:
    async with asyncio.timeout(5):
        await readable(sock.fileno())
    return sock.recvfrom(65535)


async def receive_all(sock, quiet: float = 0.2) -> list[bytes]:
    """Until nothing has come for `quiet` seconds."""
    received = []
    while True:
        try:
            async with asyncio.timeout(quiet):
                await readable(sock.fileno())
        except TimeoutError:
            return received
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(sock.recv(65535))


async def test_a_clean_relay_passes_every_size_both_ways(host, server, client):
    with UdpRelay(host, LISTEN, TARGET):
        for size in (0, 1, 1400, 65507):
            client.send(bytes(size))
            datagram, source = await receive(server)
            assert datagram == bytes(size)
            server.sendto(datagram + b"!" if size < 65507 else datagram, source)
            assert len((await receive(client))[0]) == min(size + 1, 65507)


async def test_a_target_that_was_away_for_a_while_is_heard_again(host, client):
    with UdpRelay(host, LISTEN, TARGET):
        for _ in range(2):
            client.send(b"nobody?")
            await asyncio.sleep(0)
            with sockets.udp(host, bind=TARGET) as server:
                while True:
                    client.send(b"somebody?")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await readable(server.fileno())
                        break
                _, source = server.recvfrom(100)
                server.sendto(b"here", source)
                assert (await receive(client))[0] == b"here"


async def test_each_client_comes_from_a_port_of_its_own(host, server, client):
    with UdpRelay(host, LISTEN, TARGET) as relay, sockets.udp(host, connect=LISTEN) as other:
        client.send(b"one")
        other.send(b"two")
        sources = {datagram: source for datagram, source in [await receive(server), await receive(server)]}
        assert sources[b"one"] != sources[b"two"]
        server.sendto(b"for one", sources[b"one"])
        assert (await receive(client))[0] == b"for one"
        relay.forget()
        client.send(b"again")
        assert (await receive(server))[1] not in sources.values()


async def test_delay_holds_in_each_direction(host, server, client):
    loop = asyncio.get_running_loop()
    with UdpRelay(host, LISTEN, TARGET, impairment=Impairment(delay=0.05)):
        began = loop.time()
        client.send(b"ping")
        _, source = await receive(server)
        assert loop.time() - began >= 0.045
        server.sendto(b"pong", source)
        await receive(client)
        assert loop.time() - began >= 0.09


async def test_loss_is_the_same_for_the_same_seed_and_can_be_ended(host, server):
    fates = []
    for _ in range(2):
        with (
            UdpRelay(host, LISTEN, TARGET, seed=5, impairment=Impairment(loss=0.5)) as relay,
            sockets.udp(host, connect=LISTEN) as client,
        ):
            for number in range(50):
                client.send(bytes([number]))
            fates.append(await receive_all(server))
            assert relay.counts("to-target")[Event.LOST] == 50 - len(fates[-1])
            relay.impair(Impairment(), "to-target")
            client.send(b"clean")
            assert (await receive(server))[0] == b"clean"
    assert fates[0] == fates[1]
    assert 10 < len(fates[0]) < 40


async def test_impairments_hold_for_the_named_direction_only(host, server, client):
    with UdpRelay(host, LISTEN, TARGET) as relay:
        relay.impair(Impairment(cut=True), "to-client")
        client.send(b"hello")
        datagram, source = await receive(server)
        assert datagram == b"hello"
        server.sendto(b"unheard", source)
        assert await receive_all(client) == []
        assert relay.counts("to-client")[Event.CUT] == 1


async def test_duplicates_and_corruption_arrive(host, server, client):
    with UdpRelay(host, LISTEN, TARGET, impairment=Impairment(duplicate=1.0, corrupt=1.0)):
        client.send(bytes(32))
        first, second = await receive_all(server)
        assert first == second
        assert int.from_bytes(first, "big").bit_count() == 1


async def test_a_refusing_target_does_not_end_the_relay(host, client):
    with UdpRelay(host, LISTEN, TARGET):
        for _ in range(3):
            client.send(b"nobody there")
            await asyncio.sleep(0)
        with sockets.udp(host, bind=TARGET) as server:
            async with asyncio.timeout(5):
                waiting = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().add_reader(
                    server.fileno(), lambda: waiting.done() or waiting.set_result(1)
                )
                while not waiting.done():
                    client.send(b"now")
                    await asyncio.sleep(0.01)
                asyncio.get_running_loop().remove_reader(server.fileno())
            assert server.recv(100)[:3] in (b"now", b"nob")
