from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import socket
from contextlib import contextmanager, suppress

import pytest

from tests.edge.pairs import open_descriptors, until
from tests.links.peers import Subject, names, nobody, running
from tunneld.config import Endpoint
from tunneld.links import udp as links
from tunneld.proto import framing
from tunneld.proto.const import FIRST_SENDER_HOLD
from tunneld.proto.errors import Reason

LOOPBACK = Endpoint("127.0.0.1", 0)
ONE_PACKET = framing.encode([b"packet"])


@pytest.fixture(autouse=True)
def _loud_and_quick(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(links, "TICK", 0.005)


@contextmanager
def peer(host: str = "127.0.0.1"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock, Endpoint(*sock.getsockname())


# --- with endpoints


async def test_the_state_says_what_was_heard():
    with peer() as (sock, endpoint):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(endpoint,))
        async with running(subject.run()):
            await until(lambda: subject.now == f"connecting: {endpoint}: nothing heard lately")
            sock.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: datagrams arrive from {endpoint}")
            assert subject.received == 1
            assert subject.state.link == f"udp {subject.at} → {endpoint}"


async def test_only_the_endpoint_is_listened_to():
    with peer() as (_sock, endpoint), peer() as (stranger, _):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(endpoint,))
        async with running(subject.run()):
            await until(lambda: "nothing heard" in subject.now)
            for _ in range(5):
                stranger.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.pump.drops() == {Reason.STRANGER: 5})
            assert subject.received == 0
            assert "nothing heard" in subject.now


async def test_without_a_listening_address_answers_are_heard_all_the_same():
    with peer() as (sock, endpoint):
        subject = Subject("udp", endpoints=(endpoint,))
        async with running(subject.run()):
            await until(lambda: subject.state.link is not None)
            own = int(subject.state.link.split()[1].rpartition(":")[2])
            sock.sendto(ONE_PACKET, ("127.0.0.1", own))
            await until(lambda: subject.now.startswith("up"))


async def test_an_idle_peer_costs_one_line_and_not_one_a_minute(caplog):
    with peer() as (_sock, endpoint):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(endpoint,))
        async with running(subject.run()):
            await until(lambda: "nothing heard" in subject.now)
            for _ in range(5):
                subject.clock.ahead += FIRST_SENDER_HOLD
                await asyncio.sleep(0.02)
    assert [state for state, _ in subject.history] == ["connecting", "connecting"]


async def test_an_idle_tunnel_keeps_its_endpoint():
    with peer() as (first, one), peer() as (_, two):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(one, two))
        async with running(subject.run()):
            first.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: datagrams arrive from {one}")
            for _ in range(3):
                subject.clock.ahead += FIRST_SENDER_HOLD
                await until(lambda: subject.now == f"connecting: {one}: nothing heard lately")


async def test_after_a_minute_without_an_answer_the_next_endpoint_has_its_turn():
    with peer() as (first, one), peer() as (second, two):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(one, two))
        async with running(subject.run()):
            first.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: datagrams arrive from {one}")
            subject.clock.ahead += FIRST_SENDER_HOLD - 1
            await asyncio.sleep(0.03)
            assert subject.now == f"up: datagrams arrive from {one}"
            subject.clock.ahead += 1
            await until(lambda: subject.now == f"connecting: {one}: nothing heard lately")
            unanswered_for_a_minute(subject)
            await until(lambda: subject.now == f"connecting: {two}: nothing heard lately")
            first.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            second.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: datagrams arrive from {two}")
            assert subject.pump.drops()[Reason.STRANGER] == 1
            unanswered_for_a_minute(subject)
            await until(lambda: subject.now == f"connecting: {one}: nothing heard lately")


def unanswered_for_a_minute(subject) -> None:
    subject.link.send_batch([ONE_PACKET])
    subject.clock.ahead += FIRST_SENDER_HOLD


async def test_the_name_is_resolved_anew_after_silence_and_the_old_address_stays_until_then(tmp_path, namespaces):
    with peer("127.0.0.1") as (old, endpoint), names(tmp_path / "hosts") as hosts:
        name = Endpoint("peer.example", endpoint.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
            new.bind(("127.0.0.9", endpoint.port))
            hosts.write_text("127.0.0.1 peer.example\n")
            subject = Subject("udp", listen=Endpoint("0.0.0.0", 0), endpoints=(name,))
            async with running(subject.run()):
                await until(lambda: "nothing heard" in subject.now)
                hosts.write_text("")
                subject.clock.ahead += FIRST_SENDER_HOLD
                await until(lambda: "cannot resolve peer.example" in subject.now)
                old.sendto(ONE_PACKET, ("127.0.0.1", subject.at.port))
                await until(lambda: subject.received == 1)
                hosts.write_text("127.0.0.9 peer.example\n")
                await until(lambda: "nothing heard" in subject.now or subject.now.startswith("up"))
                new.sendto(ONE_PACKET, ("127.0.0.1", subject.at.port))
                await until(lambda: subject.received == 2)


@pytest.fixture
def two_addresses(tmp_path, namespaces):
    """peer.example: 127.0.0.8 and 127.0.0.9, and a socket on the second, the resolver's second choice too."""
    with names(tmp_path / "hosts") as hosts, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        hosts.write_text("127.0.0.8 peer.example\n127.0.0.9 peer.example\n")
        second.bind(("127.0.0.9", 0))
        second.settimeout(0.0)
        yield second


def heard(sock) -> bool:
    with suppress(BlockingIOError):
        return bool(sock.recv(100))
    return False


async def test_each_address_of_a_name_has_its_turn_while_what_is_sent_stays_unanswered(two_addresses, monkeypatch):
    monkeypatch.setattr(links, "PATIENCE", 0.05)
    name = Endpoint("peer.example", two_addresses.getsockname()[1])
    subject = Subject("udp", listen=Endpoint("0.0.0.0", 0), endpoints=(name,))
    async with running(subject.run()):
        await until(lambda: "nothing heard" in subject.now)
        link = subject.link
        assert "127.0.0.8" in str(link)
        await asyncio.sleep(0.1)
        assert "127.0.0.8" in str(link), "nothing was sent, so nothing can be missed"
        await until(lambda: link.send_batch([ONE_PACKET]) and heard(two_addresses))
        two_addresses.sendto(ONE_PACKET, ("127.0.0.1", subject.at.port))
        await until(lambda: subject.now.startswith("up"))
        link.send_batch([ONE_PACKET])
        await asyncio.sleep(0.1)
        assert "127.0.0.9" in str(link), "who was heard within a minute is there"


async def test_a_name_is_heard_from_each_of_its_addresses_and_answered_there(two_addresses):
    name = Endpoint("peer.example", two_addresses.getsockname()[1])
    subject = Subject("udp", listen=Endpoint("0.0.0.0", 0), endpoints=(name,))
    async with running(subject.run()):
        await until(lambda: "nothing heard" in subject.now)
        two_addresses.sendto(ONE_PACKET, ("127.0.0.1", subject.at.port))
        await until(lambda: subject.now.startswith("up"))
        assert "127.0.0.9" in str(subject.link)
        assert not subject.pump.drops()[Reason.STRANGER]
        subject.clock.ahead += FIRST_SENDER_HOLD
        await until(lambda: "nothing heard" in subject.now)
        await asyncio.sleep(0.03)
        assert "127.0.0.9" in str(subject.link), "an address that stays among the name's stays in use"


async def test_an_endpoint_that_our_socket_cannot_reach_is_named():
    subject = Subject("udp", listen=LOOPBACK, endpoints=(Endpoint("2001:db8::1", 5),))
    async with running(subject.run()):
        await until(
            lambda: '[2001:db8::1]:5 is IPv6, but we listen on IPv4 only; write listen = "[::]:' in subject.now
        )


async def test_an_ipv4_endpoint_of_a_dual_stack_socket():
    with peer() as (sock, endpoint):
        subject = Subject("udp", listen=Endpoint("::", 0), endpoints=(endpoint,))
        async with running(subject.run()):
            await until(lambda: "nothing heard" in subject.now)
            sock.sendto(ONE_PACKET, ("127.0.0.1", subject.at.port))
            await until(lambda: subject.now == f"up: datagrams arrive from {endpoint}")


# --- the first sender


async def test_the_first_sender_is_kept_until_a_minute_of_silence_and_both_are_logged(caplog):
    subject = Subject("udp", listen=LOOPBACK)
    with peer() as (first, one), peer() as (second, two):
        async with running(subject.run()):
            await until(lambda: subject.now == f"listening: waiting on udp {subject.at}")
            first.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: {one} sent first and is the peer")
            assert subject.state.link == f"udp {subject.at} → {one}"
            subject.clock.ahead += FIRST_SENDER_HOLD - 1
            second.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.pump.drops()[Reason.STRANGER] == 1)
            assert subject.now == f"up: {one} sent first and is the peer"
            subject.clock.ahead += 1
            await until(lambda: subject.now == f"listening: {one} was silent for 60 s and is released")
            assert subject.state.link is None
            second.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now == f"up: {two} sent first and is the peer")
    assert caplog.messages[1:] == [
        f"peer berlin: up: {one} sent first and is the peer",
        f"peer berlin: listening: {one} was silent for 60 s and is released",
        f"peer berlin: up: {two} sent first and is the peer",
    ]


# --- trouble


@pytest.mark.parametrize("role", ["endpoint", "first-sender"])
async def test_a_refusal_is_told_and_forgotten_when_the_peer_is_heard(role):
    gone = nobody(socket.SOCK_DGRAM)
    subject = Subject("udp", listen=LOOPBACK, endpoints=(gone,) if role == "endpoint" else ())
    async with running(subject.run()):
        await until(lambda: subject.history)
        if role == "first-sender":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((gone.host, gone.port))
                sock.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
                await until(lambda: subject.now.startswith("up"))
        else:
            await until(lambda: "nothing heard" in subject.now)
        link = subject.link
        assert link is not None
        link.send_batch([b"anybody?"])
        await until(lambda: f"{gone}: Connection refused" in subject.now)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((gone.host, gone.port))
            sock.sendto(ONE_PACKET, (subject.at.host, subject.at.port))
            await until(lambda: subject.now.startswith("up"))


async def test_the_trouble_of_one_endpoint_is_not_that_of_the_next():
    gone = nobody(socket.SOCK_DGRAM)
    with peer() as (_sock, endpoint):
        subject = Subject("udp", listen=LOOPBACK, endpoints=(gone, endpoint))
        async with running(subject.run()):
            await until(lambda: "nothing heard" in subject.now)
            subject.link.send_batch([b"anybody?"])
            await until(lambda: f"{gone}: Connection refused" in subject.now)
            subject.clock.ahead += FIRST_SENDER_HOLD
            await until(lambda: subject.now == f"connecting: {endpoint}: nothing heard lately")


@pytest.mark.parametrize("room", [0, 1])
async def test_a_socket_that_cannot_be_had_is_tried_again(room):
    with peer() as (_sock, endpoint):
        subject = Subject("udp", endpoints=(endpoint,))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
        try:
            async with running(subject.run()):
                await until(lambda: subject.now.startswith("down: Too many open files; trying again in "))
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await until(lambda: "nothing heard" in subject.now)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("seed", range(6))
async def test_cancelling_at_any_moment_leaves_nothing_open(seed):
    source = random.Random(seed)
    before = open_descriptors()
    for _ in range(5):
        with peer() as (_sock, endpoint):
            one = Subject("udp", listen=LOOPBACK, endpoints=(endpoint,) if seed % 2 else ())
            other = Subject("udp", endpoints=(one.at,))
            async with running(one.run(), other.run()):
                for _ in range(source.randrange(6)):
                    await asyncio.sleep(0)
    await until(lambda: open_descriptors() == before)
