from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading

import pytest

from tests.edge.pairs import until
from tunneld.config import Endpoint
from tunneld.edge import address, clock
from tunneld.proto.errors import LinkDown


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("192.0.2.1", ("192.0.2.1", 7)),
        ("2001:db8::1", ("2001:db8::1", 7, 0, 0)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 7)),
    ],
)
async def test_a_numeric_endpoint_is_itself_and_needs_no_thread(host, found):
    threads = threading.active_count()
    assert await address.resolve(Endpoint(host, 7)) == [found]
    assert threading.active_count() == threads


async def test_a_name_is_looked_up():
    found = await address.resolve(Endpoint("localhost", 7))
    assert found
    assert {entry[0] for entry in found} <= {"127.0.0.1", "::1"}
    assert {entry[1] for entry in found} == {7}


def test_no_descriptor_left_for_the_first_lookup_is_the_worlds_fault(child):
    """In a process of its own: this one has looked names up before."""
    said = child("""
import asyncio, resource
from tunneld.config import Endpoint
from tunneld.edge import address
from tunneld.proto.errors import LinkDown

async def main():
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    try:
        await address.resolve(Endpoint("192.0.2.1", 7))
    except LinkDown as down:
        print(down)

asyncio.run(main())
""")
    assert said == "cannot resolve 192.0.2.1: Too many open files"


@pytest.mark.parametrize("name", ["nobody.invalid", "x" * 64 + ".example"])
async def test_a_name_without_address_is_the_worlds_fault(name):
    with pytest.raises(LinkDown, match=f"^cannot resolve {name}: "):
        await address.resolve(Endpoint(name, 7))


@pytest.fixture
def silent_resolver(monkeypatch):
    """getaddrinfo(3) that waits, as it does for a name server that says nothing; the test says for how long."""
    answer = threading.Event()

    def wait(*_arguments, **_options):
        answer.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield answer
    answer.set()


async def test_a_silent_resolver_stops_neither_the_loop_nor_us_for_ever(silent_resolver, monkeypatch):
    monkeypatch.setattr(address, "RESOLVE_TIMEOUT", 0.3)
    worst = 0.0
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(_outcome(Endpoint("slow.example", 7)))
        while not asking.done():
            before = clock.now()
            await asyncio.sleep(0.01)
            worst = max(worst, clock.now() - before)
    assert asking.result() == "the resolver gave no answer for slow.example in 0 s"
    assert worst < 0.2


async def test_an_answer_that_comes_too_late_is_nobodys(silent_resolver):
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await address.resolve(Endpoint("slow.example", 7))
    silent_resolver.set()
    await until(lambda: all(thread.name != "resolve" for thread in threading.enumerate()))
    await asyncio.sleep(0)
    assert faults == []


def test_an_answer_after_the_loop_closed_is_nobodys(silent_resolver):
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await address.resolve(Endpoint("slow.example", 7))

    asyncio.run(give_up())
    silent_resolver.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "resolve"]:
        thread.join(
            5
        )  # an exception in it would fail this test: pytest turns it into a warning, and that is an error
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("raw", "normal", "shown"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5), "192.0.2.1:5"),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5), "192.0.2.1:5"),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5, 0, 0), "[2001:db8::1]:5"),
        (("fe80::1%eth0", 5, 0, 3), ("fe80::1", 5, 0, 3), "[fe80::1%3]:5"),
    ],
)
def test_an_address_has_one_form(raw, normal, shown):
    assert address.normalise(raw) == normal
    assert address.text(raw) == shown


def test_the_family_follows_from_the_host():
    assert address.family_of(("192.0.2.1", 5)) == socket.AF_INET
    assert address.family_of(("2001:db8::1", 5, 0, 0)) == socket.AF_INET6


def test_an_address_as_a_socket_of_a_family_names_it():
    four, six = ("192.0.2.1", 5), ("2001:db8::1", 5, 0, 0)
    assert address.for_family(four, socket.AF_INET) == four
    assert address.for_family(four, socket.AF_INET6) == ("::ffff:192.0.2.1", 5, 0, 0)
    assert address.for_family(six, socket.AF_INET6) == six
    with pytest.raises(LinkDown, match=r'IPv6, but we listen on IPv4 only; write listen = "\[::\]:PORT"'):
        address.for_family(six, socket.AF_INET)


def test_errors_speak_in_the_systems_words():
    assert address.said(OSError(errno.ECONNREFUSED, "[Errno 111] Connect call failed")) == os.strerror(
        errno.ECONNREFUSED
    )
    assert address.said(OSError("something else")) == "something else"


async def _outcome(endpoint: Endpoint) -> str:
    try:
        return str(await address.resolve(endpoint))
    except LinkDown as down:
        return str(down)
