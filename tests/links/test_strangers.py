"""Whoever else connects to an end of a sealed tunnel over TCP: silence, bounds, floods.

a is the end, and b the peer that it knows. Visitors are connections whose other side the test plays.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.edge.pairs import open_descriptors, until
from tests.links import flood
from tests.links.peers import running
from tests.links.sealed import (
    LOOPBACK,
    SHORT,
    End,
    Impostor,
    Visitor,
    called,
    calling,
    listening,
    passes,
    sources,
    unread,
)
from tunneld.config import Endpoint
from tunneld.edge import clock
from tunneld.links import streams
from tunneld.links.streams import Stranger
from tunneld.proto.budget import PER_SECOND
from tunneld.proto.errors import Reason
from tunneld.proto.framing import encode
from tunneld.proto.load import MESSAGES

EARLY_OR_LATE = 0.2
INITIATION = 2 + 148
GARBAGE = random.Random(0).randbytes(2000)
PROBES = {
    "nothing": b"",
    "one byte": b"\0",
    "a length": struct.pack("!H", 148),
    "http": b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + GARBAGE[:500],
    "garbage of that length": struct.pack("!H", 148) + GARBAGE[:148],
    "more than an initiation": struct.pack("!H", 148) + GARBAGE,
    "the longest": b"\xff\xff" + GARBAGE,
    "a response": struct.pack("!H", 92) + b"\x82\0\0\0" + GARBAGE[:88],
    "data": struct.pack("!H", 32) + b"\x84\0\0\0" + GARBAGE[:28],
    "for another key": Impostor("b", "x").initiation(),
    "of a stranger": Impostor("x", "a").initiation(),
}


async def probed(at, sent: bytes, source: str, *, half_closed: bool) -> tuple[bytes, str, float]:
    """What came back, how it ended, and after how many seconds."""
    with await Visitor.come(at, source) as visitor:
        began = clock.now()
        await visitor.send(sent)
        if half_closed:
            visitor.sock.shutdown(socket.SHUT_WR)
        return *await visitor.rest(), clock.now() - began


async def all_probed(a: End, probes: list[bytes]) -> list[tuple[bytes, str, float]]:
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(probed(a.at, sent, source, half_closed=half))
            for (sent, half), source in zip(itertools.product(probes, (False, True)), sources(), strict=False)
        ]
    return [task.result() for task in asked]


@pytest.mark.parametrize("seconds", [SHORT, pytest.param(5.0, marks=pytest.mark.long)])
async def test_whatever_a_stranger_says_it_gets_silence_and_the_same_end_at_the_same_time(monkeypatch, seconds):
    monkeypatch.setattr(streams, "HANDSHAKE_TIMEOUT", seconds)
    before = open_descriptors()
    a, initiation = listening(), Impostor("b", "a").initiation()
    async with running(a.run()):
        with await Visitor.come(a.at) as first:
            await first.send(initiation)
            assert len(await first.message()) == 92, "the detector hears what is said to a peer"
            ends = await all_probed(a, [*PROBES.values(), initiation])
            await first.over()
        await until(lambda: not a.streams._strangers)
        assert {(answer, end) for answer, end, _ in ends} == {(b"", "end")}
        assert max(abs(after - seconds) for *_, after in ends) < EARLY_OR_LATE
    await until(lambda: open_descriptors() == before)


@pytest.mark.parametrize(
    ("sent", "read"),
    [(GARBAGE, 2), (b"\0\x93" + GARBAGE, 2), (b"\0\x94" + GARBAGE, INITIATION), (b"\0\x94" + GARBAGE[:7], 9)],
)
async def test_a_strangers_bytes_stay_unread_but_for_one_initiation(sent, read):
    a = listening()
    async with running(a.run()):
        with await Visitor.come(a.at) as visitor:
            await visitor.send(sent)
            await until(lambda: unread(a.at, visitor) == len(sent) - read)
            await visitor.send(GARBAGE)
            await until(lambda: unread(a.at, visitor) == len(sent) - read + len(GARBAGE))


WRONG_BEHIND_AN_INITIATION = {
    "nothing": lambda session: b"",
    "garbage": lambda session: b"\0\x40" + GARBAGE[:64],
    "empty messages": lambda session: bytes(20),
    "another initiation": lambda session: Impostor("b", "a", made=1.9e9).initiation(),
    "damaged data": lambda session: encode([session.seal_batch([b""], 0.0)[0][:-1] + b"?"]),
    "the second message first": lambda session: encode(session.seal_batch([b"", b""], 0.0)[1:]),
    "the longest": lambda session: b"\xff\xff" + GARBAGE,
}


async def errs(wrong) -> tuple[bytes, float]:
    """What comes behind the response, and how long after the arrival the connection is closed."""
    a, b = listening(), Impostor("b", "a")
    async with running(a.run()):
        with await Visitor.come(a.at) as visitor:
            began = clock.now()
            await visitor.send(b.initiation())
            await visitor.send(wrong(b.session(await visitor.message())))
            answer, _ = await visitor.rest()
            after = clock.now() - began
            await until(lambda: streams.UNCONFIRMED in a.now("b"))
    assert not a.up("b")
    return answer, after


@pytest.mark.usefixtures("short")
async def test_who_has_shown_an_initiation_and_then_errs_is_closed_no_earlier():
    async with asyncio.TaskGroup() as tasks:
        ends = [tasks.create_task(errs(wrong)) for wrong in WRONG_BEHIND_AN_INITIATION.values()]
    for task in ends:
        answer, after = task.result()
        assert answer == b""
        assert abs(after - SHORT) < EARLY_OR_LATE


async def test_strangers_are_few_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(streams, "MOST_STRANGERS", 20)
    before, a = open_descriptors(), listening()
    async with running(a.run()):
        visitors = [await Visitor.come(a.at, "127.0.0.1") for _ in range(10)]
        await until(lambda: list(map(closed, visitors)) == [True] * 2 + [False] * 8)
        visitors += [await Visitor.come(a.at, source) for source in itertools.islice(sources(), 19)]
        await until(lambda: list(map(closed, visitors)) == [True] * 9 + [False] * 20)
    for visitor in visitors:
        visitor.sock.close()
    await until(lambda: open_descriptors() == before)


def closed(visitor: Visitor) -> bool:
    """Whether the other side has closed."""
    try:
        return visitor.sock.recv(1) == b""
    except BlockingIOError:
        return False


async def test_who_has_shown_an_initiation_outlives_who_floods_from_its_address():
    a, b = listening(), Impostor("b", "a")
    async with running(a.run()):
        with await Visitor.come(a.at) as peer:
            await peer.send(b.initiation())
            response = await peer.message()
            for _ in range(3 * streams.MOST_STRANGERS_OF_AN_ADDRESS):
                (await Visitor.come(a.at)).sock.close()
            await until(lambda: len(a.streams._strangers) == streams.MOST_STRANGERS_OF_AN_ADDRESS)
            await peer.send(encode(b.session(response).seal_batch([b""], 0.0)))
            await until(lambda: a.up("b"))


async def test_who_is_evicted_leaves_nothing_that_waits_for_the_collector():
    a = listening()
    async with running(a.run()):
        with ExitStack() as visitors:
            gc.collect()
            gc.disable()
            visitors.callback(gc.enable)
            for _ in range(100):
                visitors.enter_context(await Visitor.come(a.at))
            await until(lambda: len(a.streams._strangers) == streams.MOST_STRANGERS_OF_AN_ADDRESS)
            assert sum(isinstance(found, Stranger) for found in gc.get_objects()) < 20


@pytest.mark.usefixtures("short")
async def test_a_flood_of_strangers_leaves_an_established_peer_alone_and_lets_a_new_one_in():
    before = open_descriptors()
    hub = End("a", {"b": (), "c": ()}, listen=LOOPBACK)
    b, c = calling(hub), End("c", {"a": (hub.at,)})
    came = itertools.cycle(itertools.islice(sources(), 200))
    most = 0

    async def flood():
        nonlocal most
        for number, source in zip(range(600), came, strict=False):
            with suppress(OSError):
                visitor = await Visitor.come(hub.at, source)
                visitor.sock.send(
                    (b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", Impostor("x", "a").initiation())[number % 4]
                )
                (visitor.reset if number % 3 else visitor.sock.close)()
            most = max(most, len(hub.streams._strangers))

    async with running(hub.run(), b.run()):
        await until(lambda: b.up("a"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flood())
            await asyncio.sleep(0)
            async with running(c.run()):
                await until(lambda: c.up("a"))
                await passes(c, hub, "a")
                await passes(b, hub, "a")
        assert 10 < most <= streams.MOST_STRANGERS
        await until(lambda: not hub.streams._strangers)
        assert [state for state, _ in b.history["a"]].count("up") == 1, "it never lost its connection"
    await until(lambda: open_descriptors() == before)


@contextmanager
def flooding(end: End, said: bytes, *, networks: int):
    """1,000 connections a second come to the end from another process, and each says that."""
    at = (end.at.host, str(end.at.port), str(networks), "1000")
    with subprocess.Popen([sys.executable, flood.__file__, *at], stdin=subprocess.PIPE) as process:
        process.stdin.write(said)
        process.stdin.close()
        try:
            yield
        finally:
            process.kill()


@contextmanager
def timed(end: End):
    """The CPU seconds that first messages cost the end, in a list of one."""
    spent, accept = [0.0], end.tunnel.accept_untrusted

    def accept_timed(*arguments):
        began = time.thread_time()
        try:
            return accept(*arguments)
        finally:
            spent[0] += time.thread_time() - began

    end.tunnel.accept_untrusted = accept_timed
    yield spent


@pytest.mark.parametrize(("networks", "share"), [(1, 0.1), (200, 0.25)])
async def test_handshakes_of_strangers_have_a_budget_and_a_peer_that_comes_from_elsewhere_gets_in(networks, share):
    """The strangers know our public key, or nothing they say would cost an operation on a curve."""
    hub, b = listening(), Impostor("b", "a")
    async with running(hub.run()):
        with await Visitor.come(hub.at, "127.0.0.9") as before:
            await b.join(before)
            await until(lambda: hub.up("b"))
        await until(lambda: not hub.up("b"))
        with timed(hub) as spent, flooding(hub, Impostor("x", "a").initiation(), networks=networks):
            await until(lambda: refused(hub, Reason.RATE_LIMITED) > 50)
            counted, cost, began = refused(hub, Reason.UNKNOWN_PEER), spent[0], clock.now()
            again = End("b", {"a": (hub.at,)}, started=1.9e9)
            async with running(again.run()):
                await until(lambda: again.up("a"))
                await passes(again, hub, "a")
            await until(lambda: clock.now() - began >= 1.0)
            seconds = clock.now() - began
            most = PER_SECOND if networks > 25 else 20
            assert refused(hub, Reason.UNKNOWN_PEER) - counted <= most * seconds + MESSAGES
            assert spent[0] - cost <= share * seconds


async def test_no_descriptor_left_is_said_once_and_passes(caplog):
    a = listening()
    b = calling(a)
    async with running(a.run()):
        with socket.socket() as waiting:
            with no_descriptors():
                waiting.connect((a.at.host, a.at.port))
                await until(lambda: "cannot accept a connection: Too many open files" in caplog.text)
                await asyncio.sleep(2.2 * streams.ACCEPT_PAUSE)
            async with running(b.run()):
                await until(lambda: b.up("a"), 2.0)
    assert caplog.text.count("cannot accept") == 1


@contextmanager
def no_descriptors():
    """Let none be opened any more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_initiations_on_new_connections_do_not_displace_the_session(monkeypatch, times):
    """Old ones are refused; one that is new, as after a restart of ours every old one is, gets an answer only."""
    monkeypatch.setattr(streams, "HANDSHAKE_TIMEOUT", 30.0)
    a, b = listening(), Impostor("b", "a")
    old = [b.initiation(), b.initiation()]
    async with running(a.run()):
        with ExitStack() as visitors:
            peer = visitors.enter_context(await Visitor.come(a.at))
            session = await b.join(peer)
            await until(lambda: a.up("b"))
            for number, source in enumerate(itertools.islice(sources(), times)):
                visitor = visitors.enter_context(await Visitor.come(a.at, source))
                await visitor.send(old[number % 2])
            await until(lambda: refused(a, Reason.OLD_TIMESTAMP, Reason.RATE_LIMITED) == times)
            assert a.ports == 1
            another = visitors.enter_context(await Visitor.come(a.at))
            await another.send(b.initiation())
            assert len(await another.message()) == 92
            before = a.tunnel.peers[0].received_bytes
            await peer.send(encode(session.seal_batch([b""], 0.0)))
            await until(lambda: a.tunnel.peers[0].received_bytes > before)
            a.send("b")
            while len(await peer.message()) < 100:
                pass


def refused(end: End, *reasons: Reason) -> int:
    return sum(end.pump.drops()[reason] for reason in reasons)


# --- whoever answers where the peer should be

ANSWERS = {
    "nothing": (b"", 0),
    "one byte": (b"\0", 0),
    "another length": (b"\0\x5d" + GARBAGE, 2000),
    "the longest": (b"\xff\xff" + GARBAGE, 2000),
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", 26),
    "garbage of that length": (b"\0\x5c" + GARBAGE[:92], 0),
    "more than a response": (b"\0\x5c" + GARBAGE, 2000 - 92),
    "an initiation": (Impostor("a", "b").initiation(), 148),
}


async def answered(answer: bytes, left: int) -> tuple[bytes, float]:
    """What the end that connects says behind its initiation, and when it closes; `left` bytes it does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        at = Endpoint(*server.getsockname())
        b = End("b", {"a": (at,)})
        async with running(b.run()):
            with await called(server) as visitor:
                began = clock.now()
                assert len(await visitor.message()) == 148
                await visitor.send(answer)
                await asyncio.sleep(SHORT / 2)
                assert unread(Endpoint(*visitor.sock.getpeername()), visitor) == left
                said, _ = await visitor.rest()
                after = clock.now() - began
            await until(lambda: "trying again" in b.now("a"))
            assert b.now("a").startswith("connecting: ")
            assert ("is refused (" in b.now("a")) == answer.startswith(b"\0\x5c"), b.now("a")
    return said, after


@pytest.mark.usefixtures("short")
async def test_a_wrong_answer_is_not_read_on_and_gets_no_word_and_no_earlier_end():
    async with asyncio.TaskGroup() as tasks:
        ends = [tasks.create_task(answered(*answer)) for answer in ANSWERS.values()]
    assert {task.result()[0] for task in ends} == {b""}
    assert max(abs(task.result()[1] - SHORT) for task in ends) < EARLY_OR_LATE


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_who_closes_without_an_answer_is_told_and_tried_again(how):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        b = End("b", {"a": (Endpoint(*server.getsockname()),)})
        async with running(b.run()):
            visitor = await called(server)
            await visitor.message()
            visitor.reset() if how == "reset" else visitor.sock.close()
            words = "Connection reset by peer" if how == "reset" else "which closed the connection"
            await until(lambda: re.search(rf"no answer from \S+, {words}: host down.*trying again", b.now("a")))
            assert b.tunnel.poll_timeout() is None, "nothing is known of that connection any more"
            (await called(server)).sock.close()
