from __future__ import annotations

import json
import os
import resource
import shutil
import socket
from contextlib import asynccontextmanager, closing
from functools import partial

import pytest

from tests.conftest import missing
from tests.edge.pairs import open_descriptors, readable
from tunneld.edge.routes import Routes
from tunneld.lab import network, topology

# Nothing here is called by the loop.
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])
V4 = partial(socket.inet_pton, socket.AF_INET)
V6 = partial(socket.inet_pton, socket.AF_INET6)


@asynccontextmanager
async def observed():
    """The left host of a pair, its routes, and ip(…) there, which returns what iproute2 found."""
    if shutil.which("ip") is None:
        missing("ip is not installed: apt-get install iproute2")

    async with topology.Lab.open() as lab:
        left = (await topology.pair(lab)).left

        async def ip(*words):
            done = await left.run(["ip", "-j", *words])
            assert done.code == 0, done.output
            return json.loads(done.output or "[]")

        with closing(left.call(Routes)) as routes:
            yield left, routes, ip


def noticed(routes, seconds=5.0):
    return readable(routes.fileno(), seconds) and routes.changed()


@pytest.mark.parametrize(
    "change",
    [
        "address add 192.0.2.7/24 dev eth0",
        "address add 2001:db8::7/64 dev eth0 nodad",
        "route add 203.0.113.0/24 via 192.0.2.2",
        "route add 2001:db8:9::/48 via 2001:db8::2",
        "rule add pref 100 table 7",
        "-6 rule add pref 100 table 7",
        "link set eth0 down",
    ],
)
@ONE_LOOP
async def test_a_change_is_noticed_once(namespaces, change):
    async with observed() as (_, routes, ip):
        assert not noticed(routes, 0)
        await ip(*change.split())
        while readable(routes.fileno(), 0.05):
            assert routes.changed()
        assert not routes.changed()


@ONE_LOOP
async def test_more_changes_than_the_socket_holds_are_a_change_too(namespaces):
    async with observed() as (left, routes, _):
        routes._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(8):
            await network.give(left, "lo", *(f"10.{number}.{each}.1/32" for each in range(8)))
        assert noticed(routes)
        while readable(routes.fileno(), 0):
            routes.changed()
        assert not routes.changed()


@ONE_LOOP
async def test_the_way_is_the_one_that_iproute2_finds(namespaces):
    async with observed() as (left, routes, ip):
        await network.give(left, "lo", "198.51.100.1/32", "2001:db8:5::1/128")
        eth0, lo = (left.call(partial(socket.if_nametoindex, name)) for name in ("eth0", "lo"))
        for make, source, destination, expected in (
            (V4, "192.0.2.1", "192.0.2.2", eth0),
            (V4, "198.51.100.1", "192.0.2.2", eth0),
            (V4, "192.0.2.1", "192.0.2.1", lo),
            (V6, "2001:db8::1", "2001:db8::2", eth0),
            (V6, "2001:db8:5::1", "2001:db8::2", eth0),
        ):
            assert routes.interface(make(destination), make(source)) == expected
            [found] = await ip("route", "get", destination, "from", source)
            assert left.call(partial(socket.if_nametoindex, found["dev"])) == expected
        assert routes.interface(V4("203.0.113.1"), V4("192.0.2.1")) is None
        assert routes.interface(V6("2001:db8:9::1"), V6("2001:db8::1")) is None
        assert routes.interface(V4("192.0.2.2"), V4("192.0.2.99")) is None, "not our address"


@ONE_LOOP
async def test_the_mark_and_the_demanded_interface_count(namespaces):
    async with observed() as (left, routes, ip):
        eth0, lo = (left.call(partial(socket.if_nametoindex, name)) for name in ("eth0", "lo"))
        ours, theirs = V4("192.0.2.1"), V4("192.0.2.2")
        await ip("route", "add", "default", "dev", "lo", "table", "7")
        await ip("rule", "add", "pref", "1", "fwmark", "0x99", "table", "7")
        assert routes.interface(theirs, ours) == eth0
        assert routes.interface(theirs, ours, mark=0x99) == lo
        local = V6("fe80::2")
        await network.give(left, "eth0", "fe80::1/64")
        assert routes.interface(local, V6("fe80::1"), by=eth0) == eth0


def test_what_was_opened_is_closed_also_when_no_descriptor_is_left(namespaces):
    before = open_descriptors()
    with closing(Routes()):
        assert open_descriptors() == before + 2
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        with pytest.raises(OSError, match="Too many open files"):
            Routes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before
