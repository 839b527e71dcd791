"""What people send, over every combination of transport, mode, outer and inner IP version, all of it at once.

left ── ping, 4 streams each way, a shell ══ tunnel ══ the same ── right
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE, Setup, start
from tunneld.edge import clock
from tunneld.lab import network
from tunneld.lab.ping import ping
from tunneld.lab.shell import Session
from tunneld.lab.traffic import make_file, transfer

STREAMS = 4
SHORT = 1_000_000  # bytes of a stream
LONG = 8_000_000
LASTS = 30.0  # seconds of the long form
SHELL_PORT = 7022

TUNNELS = [
    pytest.param(Setup(transport, mode, outer), id=f"{transport}-{mode}-over-{outer}")
    for transport in ("udp", "tcp")
    for mode in ("tun", "tap")
    for outer in ("v4", "v6")
]

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.mark.parametrize("inner", ["v4", "v6"])
@pytest.mark.parametrize("setup", TUNNELS)
async def test_everything_arrives_as_it_was_sent(hosts, setup, inner, tmp_path):
    needs_ipv6(setup.outer, inner)
    left, right = await start(hosts, setup)
    for host, far in zip((hosts.left, hosts.right), reversed(INSIDE[inner]), strict=True):
        assert (await ping(host, far, interval=0.0)).lost == 0
    await traffic(hosts, inner, tmp_path, SHORT, until=clock.now())
    assert [await left.stop(), await right.stop()] == [0, 0]


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(120)
@pytest.mark.parametrize("setup", TUNNELS)
async def test_everything_arrives_for_half_a_minute(hosts, setup, tmp_path):
    needs_ipv6("v6")
    await start(hosts, setup)
    for inner in INSIDE:
        (tmp_path / inner).mkdir()
    until = clock.now() + LASTS
    async with asyncio.TaskGroup() as tasks:
        for inner in INSIDE:
            tasks.create_task(traffic(hosts, inner, tmp_path / inner, LONG, until))


async def traffic(hosts, inner, directory, size, until):
    """Four streams each way and a shell beside them, again and again until `until`; each at least once."""
    left, right = INSIDE[inner]
    make_file(directory / "sent", size)
    async with asyncio.TaskGroup() as tasks:
        for number in range(STREAMS):
            port = 7000 + number
            tasks.create_task(stream(hosts.left, hosts.right, (right, port), directory, until))
            tasks.create_task(stream(hosts.right, hosts.left, (left, port), directory, until))
        tasks.create_task(shell(hosts.left, hosts.right, (right, SHELL_PORT), until))


async def stream(sender, receiver, address, directory, until):
    for _ in again(until):
        target = directory / f"{receiver.name}-{address[1]}"
        assert (await transfer(sender, directory / "sent", receiver, target, address)).intact


async def shell(client, server, address, until):
    async with Session.open(client, server, address, timeout=20.0) as session:
        echoes = []
        for number in again(until):
            typed = await session.type(f"echo $HOST-{number}")
            assert typed.answer.splitlines()[-1] == f"{server.name}-{number}"
            echoes += typed.echoes
    # Beside streams that fill the queues a key waits its turn, and one that is dropped there until TCP sends it
    # again, which takes longer each time; but nobody would call the session stuck.
    echoes.sort()
    assert echoes[len(echoes) * 9 // 10] < 1.0
    assert echoes[-1] < 5.0


def again(until):
    """0, 1, 2, … until then."""
    yield 0
    for number in itertools.count(1):
        if clock.now() >= until:
            return
        yield number


def needs_ipv6(*families):
    if "v6" in families and not network.HAS_IPV6:
        missing("this kernel has no IPv6")
