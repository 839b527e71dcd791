"""The wall clock of one end is set, by hand or by NTP, while the tunnel runs: nothing of it is felt.

left t0 ══ datagrams both ways all the time ══ t0 right, whose wall clock is wrong from some moment on
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.system.conftest import INSIDE, NAME, status_when
from tests.system.sealed import Sealed
from tunneld import durable
from tunneld.edge import clock
from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.daemon import CLOCKED, Daemon
from tunneld.lab.host import Host
from tunneld.lab.ping import wait_reachable

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

PORT = 7300
PACE = 0.002  # seconds between two datagrams each way
LONGEST = 0.5  # seconds without one; some 0.05 are a busy machine's
STEPS = {"back": -5 * 3_600, "forward": 3 * 86_400}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(Sealed(), id="udp"),
        pytest.param(Sealed("tcp"), id="tcp", marks=pytest.mark.long),
        pytest.param(Sealed(protocol="wireguard"), id="wireguard", marks=pytest.mark.long),
    ],
)
async def test_a_wall_clock_that_is_set_stops_no_packet_no_rekey_and_no_restart(hosts, setup, step):
    set_wall(hosts.right, 0)
    answering = "".join(line for line in setup.left(hosts).splitlines(keepends=True) if "endpoint" not in line)
    left = Daemon.start(hosts.left, answering, name=NAME)
    await left.wait_ready()
    right = clocked(hosts.right, setup.right(hosts))
    await right.wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    async with traffic(hosts) as streams:
        for wrong in (step, 0, step):
            set_wall(hosts.right, wrong)
            await passes(streams, 50)
            await rekeyed(left, right)
            await passes(streams, 50)
    assert max(stream.longest for stream in streams) < LONGEST
    assert await right.stop() == 0
    right = clocked(hosts.right, setup.right(hosts))
    await right.wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    assert "old-timestamp" not in (await left.status())["drops"]
    assert [await left.stop(), await right.stop()] == [0, 0]
    assert "Traceback" not in left.log() + right.log()
    assert "timestamp" not in left.log() + right.log()


def clocked(host: Host, text: str) -> Daemon:
    """A daemon whose clocks can be moved; it begins all handshakes, as the other end does not know where it is."""
    return Daemon.start(host, text, name=NAME, options=("--wall", str(host.run_dir / "wall")), command=CLOCKED)


def set_wall(host: Host, wrong: float) -> None:
    """Let the wall clock be wrong by so many seconds, now and after a restart."""
    durable.replace(host.run_dir / "wall", str(wrong).encode())


async def rekeyed(left: Daemon, right: Daemon) -> None:
    """Let right believe that the session is two minutes old, and wait until there is a new one."""
    began = clock.now()
    right.move_clock()
    await status_when(left, lambda status: status["peers"][0]["latest_handshake"] < clock.now() - began)


@dataclass
class Stream:
    """Datagrams through the tunnel one way: how many have come, and the longest time without one."""

    came: int = 0
    longest: float = 0.0


@asynccontextmanager
async def traffic(hosts):
    """Datagrams both ways, while the context lasts."""
    streams = [Stream(), Stream()]
    ways = [(hosts.left, hosts.right, 0), (hosts.right, hosts.left, 1)]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(carry(*way, stream)) for way, stream in zip(ways, streams, strict=True)]
        await passes(streams, 1)
        yield streams
        for task in running:
            task.cancel()


async def carry(source: Host, target: Host, end: int, stream: Stream) -> None:
    with (
        sockets.udp(target, bind=(INSIDE["v4"][1 - end], PORT)) as receiving,
        sockets.udp(source, bind=(INSIDE["v4"][end], PORT + 1), connect=(INSIDE["v4"][1 - end], PORT)) as sending,
    ):
        last = clock.now()
        while True:
            sending.send(b"datagram")
            try:
                async with asyncio.timeout(PACE):
                    await readable(receiving.fileno())
            except TimeoutError:
                continue
            receiving.recv(2048)
            now = clock.now()
            stream.longest = max(stream.longest, now - last)
            stream.came += 1
            last = now


async def passes(streams: list[Stream], count: int) -> None:
    """Wait for so many more datagrams each way."""
    wanted = [stream.came + count for stream in streams]
    async with asyncio.timeout(5.0):
        while any(stream.came < each for stream, each in zip(streams, wanted, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(PACE)
