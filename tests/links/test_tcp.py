from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import resource
import socket
import threading
from contextlib import suppress
from ipaddress import ip_interface

import pytest

from tests.edge.pairs import open_descriptors, until
from tests.links.peers import Subject, client, names, nobody, running
from tunneld.config import Endpoint
from tunneld.edge import clock
from tunneld.links import tcp as links
from tunneld.log import PER_SECOND
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import IFA_F_NODAD, AddressAdd, AddressDel
from tunneld.proto import framing
from tunneld.proto.errors import Reason

LOOPBACK = Endpoint("127.0.0.1", 0)
ONE_PACKET = framing.encode([b"packet"])


@pytest.fixture(autouse=True)
def _loud(caplog):
    caplog.set_level(logging.INFO)


def server() -> tuple[socket.socket, Endpoint]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(5)
    return sock, Endpoint(*sock.getsockname())


async def accepted(sock: socket.socket) -> socket.socket:
    return (await asyncio.to_thread(sock.accept))[0]


async def closed(sock: socket.socket) -> bool:
    """Whether the other end has closed, or closes soon."""
    with suppress(ConnectionResetError):
        while await asyncio.to_thread(sock.recv, 4096):
            pass
    return True


# --- connecting


async def test_it_connects_carries_and_connects_again():
    sock, endpoint = server()
    subject = Subject("tcp", endpoints=(endpoint,))
    with sock:
        async with running(subject.run()):
            for number in range(1, 4):
                with await accepted(sock) as connection:
                    connection.sendall(ONE_PACKET)
                    await until(lambda number=number: subject.received == number)
                    local = "{}:{}".format(*connection.getpeername())
                    assert subject.now == f"up: connected, tcp {local} → {endpoint}"
                    assert subject.state.link == f"tcp {local} → {endpoint}"
                await until(
                    lambda: subject.now.startswith("connecting: the peer closed the connection; trying again")
                )
                assert subject.state.link is None


async def test_the_delay_doubles_and_begins_anew_after_a_connection_that_held():
    subject = Subject("tcp", endpoints=(nobody(),))
    async with running(subject.run()):
        await until(lambda: len(delays(subject)) == 4)
        for delay, step in zip(delays(subject), (0.2, 0.4, 0.8, 1.6), strict=True):
            assert max(0.2, step / 2) - 0.051 <= delay <= step + 0.051
        assert all("Connection refused" in reason for _, reason in subject.history[1:])
        with socket.create_server((subject.endpoints[0].host, subject.endpoints[0].port)) as sock:
            sock.settimeout(5)
            connection = await accepted(sock)
            await until(lambda: subject.now.startswith("up"))
            subject.clock.ahead += links.HELD
            connection.close()
            await until(lambda: len(delays(subject)) == 5)
        assert delays(subject)[-1] == 0.2


async def test_a_connection_that_did_not_hold_does_not_reset_the_delay():
    sock, endpoint = server()
    subject = Subject("tcp", endpoints=(endpoint,))
    with sock:
        async with running(subject.run()):
            for _ in range(3):
                (await accepted(sock)).close()
            await until(lambda: len(delays(subject)) == 3)
    assert delays(subject)[2] > delays(subject)[0]


async def test_endpoints_are_tried_in_their_order():
    sock, endpoint = server()
    subject = Subject("tcp", endpoints=(nobody(), endpoint))
    with sock:
        async with running(subject.run()):
            with await accepted(sock):
                await until(lambda: subject.now.startswith("up"))
    assert [state for state, _ in subject.history][:2] == ["connecting", "up"]


async def test_a_name_is_resolved_anew_for_every_connection(tmp_path, namespaces):
    sock, endpoint = server()
    subject = Subject("tcp", endpoints=(Endpoint("peer.example", endpoint.port),))
    with sock, names(tmp_path / "hosts") as hosts:
        async with running(subject.run()):
            await until(lambda: "cannot resolve peer.example" in subject.now)
            hosts.write_text("127.0.0.1 peer.example\n")
            with await accepted(sock):
                await until(lambda: subject.now.startswith("up"))


# --- listening only


async def test_the_next_client_is_served_when_one_leaves_and_waits_until_then():
    subject = Subject("tcp", listen=LOOPBACK)
    async with running(subject.run()):
        await until(lambda: subject.now == f"listening: waiting on tcp {subject.at}")
        with client(subject.at) as first, client(subject.at) as second:
            first.sendall(ONE_PACKET)
            second.sendall(ONE_PACKET * 2)
            await until(lambda: subject.received == 1)
            who = "{}:{}".format(*first.getsockname())
            assert subject.now == f"up: connected, tcp {subject.at} ← {who}"
            first.close()
            await until(lambda: subject.received == 3)
            second.sendall(ONE_PACKET)
            await until(lambda: subject.received == 4)
        await until(lambda: subject.now == f"listening: the peer closed the connection; waiting on tcp {subject.at}")
        with client(subject.at) as third:
            third.sendall(ONE_PACKET)
            await until(lambda: subject.received == 5)


async def test_clients_that_come_and_go_at_once_do_no_harm():
    subject = Subject("tcp", listen=LOOPBACK)
    async with running(subject.run()):
        for _ in range(20):
            await asyncio.to_thread(lambda: client(subject.at).close())
        with client(subject.at) as last:
            last.sendall(ONE_PACKET)
            await until(lambda: subject.received == 1)


async def test_clients_that_come_and_go_by_the_hundred_do_not_fill_the_log(caplog, monkeypatch):
    monkeypatch.setattr(links, "SETTLE_PAUSE", 0.1)
    subject = Subject("tcp", listen=LOOPBACK)
    async with running(subject.run()):
        await until(lambda: subject.history)
        began = clock.now()
        for _ in range(100):
            await asyncio.to_thread(lambda: client(subject.at).close())
        seconds = clock.now() - began
        await until(lambda: re.search(r"and \d+ more", caplog.text) and subject.history[-1][0] == "listening")
    # In each second those lines, the number of the others, and the state that they came to.
    assert len(caplog.messages) <= (PER_SECOND + 3) * (seconds + 2)


async def test_no_descriptor_left_is_said_and_passes(caplog, monkeypatch):
    monkeypatch.setattr(links, "ACCEPT_PAUSE", 0.05)
    subject = Subject("tcp", listen=LOOPBACK)
    async with running(subject.run()):
        with client(subject.at) as waiting:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                await until(
                    lambda: "cannot accept a connection: Too many open files; trying again in 1 s" in caplog.messages
                )
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting.sendall(ONE_PACKET)
            await until(lambda: subject.received == 1)


# --- both


async def test_a_stranger_is_refused_and_the_peer_is_served(caplog):
    subject = Subject("tcp", listen=LOOPBACK, endpoints=(nobody(),))
    async with running(subject.run()):
        for number in range(1, 21):
            with client(subject.at, source="127.0.0.9") as stranger:
                assert await closed(stranger)
            await until(lambda number=number: subject.pump.drops() == {Reason.STRANGER: number})
        with client(subject.at) as peer:
            peer.sendall(ONE_PACKET)
            await until(lambda: subject.received == 1)
    lines = [line for line in caplog.messages if line.startswith("refused a connection from 127.0.0.9:")]
    assert 1 <= len(lines) <= 5


async def test_the_state_follows_an_accepted_connection_to_its_end():
    subject = Subject("tcp", listen=LOOPBACK, endpoints=(nobody(),))
    async with running(subject.run()):
        await until(lambda: len(delays(subject)) == 1)
        with client(subject.at):
            await until(lambda: subject.now.startswith("up"))
        await until(lambda: subject.now.startswith("connecting: the peer closed the connection"))


async def test_a_second_connection_of_the_peer_takes_the_place_of_its_first():
    subject = Subject("tcp", listen=LOOPBACK, endpoints=(nobody(),))
    async with running(subject.run()):
        with client(subject.at) as first:
            await until(lambda: subject.now.startswith("up"))
            with client(subject.at) as second:
                assert await closed(first)
                second.sendall(ONE_PACKET)
                await until(lambda: subject.received == 1)


async def test_a_silent_resolver_holds_up_neither_the_listener_nor_the_loop(monkeypatch):
    answer = threading.Event()

    def wait(*_arguments, **_options):
        answer.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    subject = Subject("tcp", listen=LOOPBACK, endpoints=(Endpoint("slow.example", 1),))
    monkeypatch.setattr(socket, "getaddrinfo", wait)
    try:
        async with running(subject.run()):
            began = clock.now()
            for number in range(1, 6):
                with socket.socket() as stranger:
                    stranger.settimeout(5)
                    stranger.connect((subject.at.host, subject.at.port))
                    assert await closed(stranger)
                await until(lambda number=number: subject.pump.drops() == {Reason.STRANGER: number})
            assert clock.now() - began < 2
    finally:
        answer.set()
    await until(lambda: not any(thread.name == "resolve" for thread in threading.enumerate()))


async def test_a_stranger_who_is_the_peer_at_a_new_address_is_known_soon(tmp_path, monkeypatch, namespaces):
    monkeypatch.setattr(links, "LEARN_PAUSE", 0.05)
    monkeypatch.setattr(links, "Backoff", lambda random: Forever())
    subject = Subject("tcp", listen=LOOPBACK, endpoints=(Endpoint("peer.example", nobody().port),))
    with names(tmp_path / "hosts") as hosts:
        hosts.write_text("127.0.0.8 peer.example\n")
        async with running(subject.run()):
            with client(subject.at, source="127.0.0.9") as early:
                assert await closed(early)
            hosts.write_text("127.0.0.9 peer.example\n")
            tries = 0
            while subject.received == 0:
                with client(subject.at, source="127.0.0.9") as again, suppress(ConnectionError):
                    again.sendall(ONE_PACKET)
                    tries += 1
                    await asyncio.sleep(0.05)
                assert tries < 40


async def test_strangers_cannot_make_us_ask_the_resolver_for_ever(monkeypatch):
    asked = []

    def fail(host, *_arguments, **_options):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    subject = Subject("tcp", listen=LOOPBACK, endpoints=(Endpoint("peer.example", 1),))
    monkeypatch.setattr(links, "Backoff", lambda random: Forever())
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    async with running(subject.run()):
        for number in range(1, 21):
            with socket.socket() as stranger:
                stranger.settimeout(5)
                stranger.connect((subject.at.host, subject.at.port))
                assert await closed(stranger)
            await until(lambda number=number: subject.pump.drops() == {Reason.STRANGER: number})
    assert asked == ["peer.example"] * 2, "once to connect, once to know it"


class Forever:
    """So that only the stranger can be the cause of a new look-up."""

    def delay(self) -> float:
        return 1000.0

    def reset(self) -> None: ...


ADDRESSES = {"v4": ("127.0.0.1", "127.0.0.2"), "v6": ("fd00:77::1", "fd00:77::2"), "same": ("::1", "::1")}


@pytest.fixture
async def _two_addresses(namespaces):
    added = [AddressAdd("lo", ip_interface(f"{host}/128"), flags=IFA_F_NODAD, protocol=0) for host in ADDRESSES["v6"]]
    async with Kernel.open() as kernel:
        for address in added:
            await kernel.execute(address)
        yield
        for address in added:
            await kernel.execute(AddressDel("lo", address.address))


@pytest.mark.usefixtures("_two_addresses")
@pytest.mark.parametrize("hosts", ADDRESSES)
async def test_when_both_ends_connect_the_lower_opener_stays_and_both_agree(hosts, caplog):
    source = random.Random(hosts)
    for _ in range(50):
        caplog.clear()
        one, other = (
            Subject("tcp", listen=Endpoint(host, 0), seed=source.randrange(99)) for host in ADDRESSES[hosts]
        )
        one.endpoints, other.endpoints = (other.at,), (one.at,)
        first, second = source.sample([one, other], 2)
        async with running(first.run()):
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
            async with running(second.run()):
                await until(lambda one=one, other=other: agree(one, other))
                openers = {opener for line in caplog.messages for opener in re.findall(r"tcp (\S+) → ", line)}
                assert len(openers) == 2, "only one end has connected: this shows nothing"
                assert f"tcp {min(openers, key=rank)} → " in f"{one.state.link} {other.state.link}"


def rank(opener: str) -> tuple[str, int]:
    """The addresses of these tests differ in their last digit only."""
    host, _, port = opener.rpartition(":")
    return host, int(port)


def agree(one: Subject, other: Subject) -> bool:
    """Both are up on the same connection, and no other is left between them."""
    links = one.state.link, other.state.link
    if None in links:
        return False
    ends = [re.findall(r"tcp (\S+) (?:→|←) (\S+)", link)[0] for link in links]
    return ends[0] == ends[1][::-1] and connections(one.at.port, other.at.port) == 1


def connections(*ports: int) -> int:
    """Established TCP connections to one of these local ports."""
    count = 0
    for table in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{table}") as lines:
            rows = [line.split() for line in list(lines)[1:]]
        count += sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) in ports for row in rows)
    return count


# --- the end


@pytest.mark.parametrize("seed", range(10))
async def test_cancelling_at_any_moment_leaves_nothing_open(seed):
    source = random.Random(seed)
    before = open_descriptors()
    for _ in range(5):
        one = Subject("tcp", listen=LOOPBACK, seed=seed)
        other = Subject("tcp", listen=Endpoint("127.0.0.2", 0), endpoints=(one.at,), seed=seed)
        if seed % 2:
            one.endpoints = (other.at,)
        async with running(one.run(), other.run()):
            for _ in range(source.randrange(12)):
                await asyncio.sleep(0)
    await until(lambda: open_descriptors() == before)


def delays(subject: Subject) -> list[float]:
    return [float(found[1]) for _, reason in subject.history if (found := re.search(r"again in ([\d.]+) s", reason))]
