"""The pump between a real TAP device and a real socket.

    frames ⇄ AF_PACKET ⇄ tap ⇄ Device ⇄ Pump ⇄ Link ⇄ peer

The frames have an EtherType that the kernel has no use for, so nobody else speaks.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.edge.pairs import link_and_socket, open_descriptors, tcp_links, udp_links, until
from tunneld.edge import clock, tcp
from tunneld.edge.device import Device, DeviceLostError
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import LinkSet
from tunneld.proto import framing
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel
from tunneld.pump import Pump

pytestmark = pytest.mark.usefixtures("namespaces")

ETHERTYPE = 0x88B5  # IEEE 802: for local experiments
HEADER = bytes(6) + bytes.fromhex("020000000001") + struct.pack("!H", ETHERTYPE)
MAX_FRAME = 1514
ROOT = Path(__file__).parent.parent


@pytest.fixture
def pump() -> Pump:
    return Pump(PlainTunnel(mode="tap", max_packet=MAX_FRAME), clock.now)


# --- both ways


@pytest.mark.parametrize(("links", "tunnel"), [(tcp_links, PlainTunnel), (udp_links, PlainDatagramTunnel)])
async def test_packets_arrive_whole_and_in_order_in_both_directions(links, tunnel):
    left_sent, right_sent = frames(1, 500), frames(2, 500)
    one_pump, other_pump = (Pump(tunnel(mode="tap", max_packet=MAX_FRAME), clock.now) for _ in range(2))
    async with links() as (one, other), tap("left0") as left, tap("right0") as right:
        ends = (
            one_pump.drive(left.device),
            one_pump.carry(one),
            other_pump.drive(right.device),
            other_pump.carry(other),
        )
        async with running(*ends):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(left.send(left_sent))
                tasks.create_task(right.send(right_sent))
            await until(lambda: len(right.came_out()) == len(left.came_out()) == 500)
        assert right.seen == left_sent
        assert left.seen == right_sent
        for pump, sent, received in ((one_pump, left_sent, right_sent), (other_pump, right_sent, left_sent)):
            assert pump.drops() == Counter()
            assert pump.last_received is not None
            totals = pump.totals()
            assert totals["device_read_packets"] == totals["device_written_packets"] == 500
            assert totals["device_read_bytes"] == sum(map(len, sent))
            assert totals["device_written_bytes"] == sum(map(len, received))


async def test_a_plain_loop_of_one_packet_at_a_time_writes_the_same_stream(pump):
    packets = frames(3, 400)
    async with tap("fast0") as fast, tap("plain0") as plain, link_and_socket() as (link, peer):
        async with running(pump.drive(fast.device), pump.carry(link)):
            reading = asyncio.to_thread(read_exactly, peer, sum(map(len, packets)) + 2 * len(packets))
            _, got = await asyncio.gather(fast.send(packets), reading)
        expected = b""
        for packet in packets:
            plain.wire.send(packet)
            read = os.read(plain.device.fd, 1 << 16)
            expected += struct.pack("!H", len(read)) + read
    assert got == expected


async def test_a_plain_loop_of_one_message_at_a_time_writes_the_same_packets(pump):
    """Hostile lengths among good frames, split anywhere: what the device gets and what is counted must agree."""
    source = random.Random(4)
    good = frames(5, 300)
    messages = [message for packet in good for message in (packet, *hostile(source))]
    stream = framing.encode(messages)
    async with tap("fast0") as fast, tap("plain0") as plain, link_and_socket() as (link, peer):
        async with running(pump.drive(fast.device), pump.carry(link)):
            at = 0
            while at < len(stream):
                step = source.choice([1, 2, 3, 100, 5000, 60_000])
                await asyncio.to_thread(peer.sendall, stream[at : at + step])
                at += step
            await until(lambda: pump.totals()["link_received_messages"] == len(messages))
        refused: Counter[Reason] = Counter()
        at = 0
        while at < len(stream):
            (length,) = struct.unpack_from("!H", stream, at)
            packet, at = stream[at + 2 : at + 2 + length], at + 2 + length
            if reason := plain_refusal(packet):
                refused[reason] += 1
            else:
                os.write(plain.device.fd, packet)
                plain.came_out()
        assert fast.came_out() == plain.came_out() == good
        assert pump.drops() == refused


# --- one end is missing


async def test_without_a_link_packets_are_counted_and_the_next_link_gets_none_of_them(pump):
    async with tap("tap0") as device, running(pump.drive(device.device)):
        await device.send(frames(1, 20))
        assert pump.drops() == {Reason.NO_LINK: 20}
        async with link_and_socket() as (link, peer), running(pump.carry(link)):
            await device.send([frame(b"new")])
            assert await asyncio.to_thread(read_exactly, peer, 19) == framing.encode([frame(b"new")])


async def test_without_a_device_packets_are_counted(pump):
    async with link_and_socket() as (link, peer), running(pump.carry(link)):
        peer.sendall(framing.encode([frame(b"x")] * 7 + [b""]))
        await until(lambda: pump.drops() == {Reason.NO_DEVICE: 7, Reason.EMPTY: 1})


async def test_a_device_that_is_down_loses_packets_and_nothing_else(pump):
    async with joined(pump) as (device, _link, peer, _ends):
        await set_state("tap0", "down")
        peer.sendall(framing.encode([frame(b"lost")] * 3))
        await until(lambda: pump.drops() == {Reason.DEVICE_DOWN: 3})
        await set_state("tap0", "up")
        peer.sendall(framing.encode([frame(b"kept")]))
        await until(lambda: device.came_out() == [frame(b"kept")])


# --- back-pressure


async def test_a_peer_that_does_not_read_stops_the_device_and_nothing_else(pump):
    big, small = frame(bytes(1500)), frame(b"the other way")
    async with joined(pump) as (device, link, peer, _ends):
        # The kernels at both ends find room for some time after they first had none.
        before = -1
        while not link.blocked or device.device.packets_read > before:
            before = device.device.packets_read
            await flood(device, big, 0.3)
        paused, memory = device.device.packets_read, resident()
        async with running((ticks := Ticks()).run()):
            await flood(device, big, 1.0)
        assert device.device.packets_read == paused
        assert 0 < link._unsent_bytes <= tcp.UNSENT_LIMIT
        assert resident() - memory < 8 << 20
        assert ticks.longest < 0.25

        peer.sendall(framing.encode([small]))
        await until(lambda: device.came_out() == [small])
        assert link.blocked

        peer.settimeout(0.1)
        await asyncio.to_thread(read_until_quiet, peer)
        assert not link.blocked
        assert device.device.packets_read > paused


async def test_what_does_not_fit_is_counted_and_what_was_taken_arrives_whole(pump):
    """One batch larger than the whole buffer: the newest packets of it are lost, nothing else."""
    size = 60_000
    big = [frame(bytes([number]) * size) for number in range(16)]
    pump = Pump(PlainTunnel(mode="tap", max_packet=1 << 16), clock.now)
    async with tap("tap0", mtu=65_521) as device, link_and_socket(receive_buffer=4096) as (link, peer):
        async with running(pump.drive(device.device), pump.carry(link)):
            for _ in range(20):
                for packet in big:
                    with suppress(OSError):
                        device.wire.send(packet)
                await asyncio.sleep(0.002)
            stream = await asyncio.to_thread(read_until_quiet, peer)
        taken = pump.totals()["link_sent_messages"]
        assert pump.drops()[Reason.QUEUE_FULL] > 0
        assert pump.drops() == {Reason.QUEUE_FULL: pump.totals()["device_read_packets"] - taken}
        records, fault = framing.split_untrusted(stream)
        assert fault is None
        assert len(records) == taken
        assert all(bytes(record) in big for record in records)


# --- ends


async def test_a_deleted_device_ends_drive_at_once_and_the_link_goes_on(pump):
    async with link_and_socket() as (link, peer), running(pump.carry(link)):
        async with tap("tap0") as device, running(pump.drive(device.device)) as (driving,):
            await device.send(frames(1, 10))
            await delete("tap0")
            lost = await asyncio.wait_for(driving, 1)
            assert isinstance(lost, DeviceLostError)
            assert str(lost) == "tap0: the device was deleted"
            assert not is_watched(device.device.fd)
        async with tap("tap1") as device, running(pump.drive(device.device)):
            peer.sendall(framing.encode([frame(b"again")]))
            await until(lambda: device.came_out() == [frame(b"again")])
        assert pump.totals()["device_read_packets"] == 10
        assert pump.totals()["device_written_packets"] == 1


async def test_a_deleted_device_is_noticed_without_a_packet_while_its_reader_rests(pump):
    """Back-pressure has taken the device off the loop; the peer's packets find out then."""
    async with joined(pump) as (device, link, peer, (driving, _)):
        while not link.blocked:
            await flood(device, frame(bytes(1500)), 0.01)
        await delete("tap0")
        peer.sendall(framing.encode([frame(b"x")]))
        assert isinstance(await asyncio.wait_for(driving, 1), DeviceLostError)


async def test_a_link_that_ends_leaves_the_device_running(pump):
    async with tap("tap0") as device, running(pump.drive(device.device)):
        async with link_and_socket() as (link, peer), running(pump.carry(link)) as (carrying,):
            peer.sendall(b"\0\0")
            await until(lambda: pump.drops() == {Reason.EMPTY: 1})
            peer.close()
            assert isinstance(await asyncio.wait_for(carrying, 1), LinkDown)
            assert link.fileno() == -1
        await device.send(frames(1, 3))
        assert pump.drops() == {Reason.EMPTY: 1, Reason.NO_LINK: 3}


async def test_a_blocked_link_that_ends_frees_the_device(pump):
    async with tap("tap0") as device, running(pump.drive(device.device)):
        async with link_and_socket() as (link, peer), running(pump.carry(link)) as (carrying,):
            while not link.blocked:
                await flood(device, frame(bytes(1500)), 0.01)
            paused = device.device.packets_read
            peer.close()
            assert isinstance(await asyncio.wait_for(carrying, 1), LinkDown)
        await until(lambda: device.device.packets_read > paused)


async def test_a_link_that_is_ended_gives_its_place_to_the_other(pump):
    async with (
        link_and_socket() as (old, old_peer),
        running(pump.carry(old)) as (carrying,),
        link_and_socket() as (new, new_peer),
        running(pump.carry(new)),
    ):
        pump.end(old, LinkDown("another connection to the peer took its place"))
        down = await asyncio.wait_for(carrying, 1)
        assert str(down) == "another connection to the peer took its place"
        assert old.fileno() == -1
        assert await asyncio.to_thread(old_peer.recv, 1) == b""
        new_peer.sendall(framing.encode([b"", b""]))
        await until(lambda: pump.drops() == {Reason.EMPTY: 2})


async def test_cancelling_leaves_nothing_on_the_loop(pump):
    async with tap("tap0") as device, link_and_socket() as (link, _peer):
        async with running(pump.drive(device.device), pump.carry(link)):
            number = link.fileno()
            while not link.blocked:
                await flood(device, frame(bytes(1500)), 0.01)
        assert not is_watched(device.device.fd)
        assert not is_watched(number)
        assert link.fileno() == -1


async def test_a_bug_in_the_data_path_comes_out_where_it_ends_the_process():
    class Broken(PlainTunnel):
        def to_messages(self, packets):
            raise ZeroDivisionError("a bug")

    pump = Pump(Broken(mode="tap", max_packet=MAX_FRAME), clock.now)
    async with joined(pump) as (device, _link, _peer, ends):
        device.wire.send(frame(b"x"))
        for end in ends:
            assert isinstance(await asyncio.wait_for(end, 1), ZeroDivisionError)


@pytest.mark.parametrize("module", ["asyncio", "uvloop"])
def test_closing_a_device_right_after_it_was_watched_does_not_abort_the_process(module):
    """uvloop aborts if a descriptor is closed in the turn in which it was watched; in a process of its own, then."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSE_AT_ONCE, module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


CLOSE_AT_ONCE = """
import asyncio, importlib, sys
from tunneld.edge import clock
from tunneld.edge.device import Device
from tunneld.proto.plain import PlainTunnel
from tunneld.pump import Pump

async def main():
    pump = Pump(PlainTunnel(mode="tap", max_packet=1500), clock.now)
    for turns in range(20):
        device = Device.open("abort0", "tun")
        driving = asyncio.ensure_future(pump.drive(device))
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        driving.cancel()
        try:
            await driving
        except asyncio.CancelledError:
            device.close()

with asyncio.Runner(loop_factory=importlib.import_module(sys.argv[1]).new_event_loop) as runner:
    runner.run(main())
"""


async def test_nothing_stays_open(pump):
    before = open_descriptors()
    for _ in range(5):
        async with joined(pump) as (device, _link, _peer, _ends):
            await device.send(frames(1, 5))
    assert open_descriptors() == before


# --- what the tests are made of


def frame(payload: bytes) -> bytes:
    return HEADER + payload


def frames(seed: int, count: int) -> list[bytes]:
    source = random.Random(seed)
    sizes = [source.choice([0, 1, 50, 600, source.randint(0, 1500), 1500]) for _ in range(count)]
    return [frame(source.randbytes(size)) for size in sizes]


def hostile(source: random.Random) -> list[bytes]:
    return source.choice([[], [], [b""], [b"\x01"], [bytes(13)], [bytes(MAX_FRAME + 1)], [bytes(65_535)]])


def plain_refusal(packet: bytes) -> Reason | None:
    if not packet:
        return Reason.EMPTY
    if len(packet) > MAX_FRAME:
        return Reason.OVERSIZED
    return Reason.DEVICE_REFUSED if len(packet) < 14 else None


class Tap:
    """A device that is up, and the network's side of it."""

    def __init__(self, device: Device, wire: socket.socket) -> None:
        self.device = device
        self.wire = wire
        self.seen: list[bytes] = []

    async def send(self, packets: Sequence[bytes]) -> None:
        """Give packets to the device, no faster than its queue is read."""
        for start in range(0, len(packets), 50):
            chunk = packets[start : start + 50]
            goal = self.device.packets_read + len(chunk)
            for packet in chunk:
                self.wire.send(packet)
            await until(lambda goal=goal: self.device.packets_read == goal)

    def came_out(self) -> list[bytes]:
        """All that the device wrote to the network until now."""
        with suppress(BlockingIOError):
            while True:
                self.seen.append(self.wire.recv(1 << 16))
        return self.seen


@asynccontextmanager
async def tap(name: str, mtu: int = 1500) -> AsyncIterator[Tap]:
    with closing(Device.open(name, "tap")) as device:
        silence(name)
        async with Kernel.open() as kernel:
            await kernel.execute(LinkSet(name, "mtu", mtu, 1500))
        await set_state(name, "up")
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_PACKET, kind, socket.htons(ETHERTYPE)) as wire:
            wire.bind((name, ETHERTYPE))
            made = Tap(device, wire)
            loop = asyncio.get_running_loop()
            loop.add_reader(wire, made.came_out)
            try:
                yield made
            finally:
                loop.remove_reader(wire)


def silence(name: str) -> None:
    """Keep the kernel from speaking IPv6 on the device."""
    setting = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if setting.exists():
        setting.write_text("1")


async def set_state(name: str, state: str) -> None:
    async with Kernel.open() as kernel:
        await kernel.execute(LinkSet(name, "state", state, ""))


async def delete(name: str) -> None:
    async with Kernel.open() as kernel:
        await kernel.ipr.link("del", index=socket.if_nametoindex(name))


@asynccontextmanager
async def running(*ends: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[BaseException | None]]]:
    """Each runs until the block ends; the task's result is what it raised before."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(fate(end)) for end in ends]
        await asyncio.sleep(0)
        yield started
        for task in started:
            task.cancel()


@asynccontextmanager
async def joined(pump: Pump):
    """The device, the link, the socket of its peer, and how `drive` and `carry` end."""
    async with tap("tap0") as device, link_and_socket() as (link, peer):
        ends = running(pump.drive(device.device), pump.carry(link))
        async with ends as tasks:
            yield device, link, peer, tasks


async def fate(end: Coroutine[Any, Any, Any]) -> BaseException | None:
    try:
        await end
    except (LinkDown, DeviceLostError, ZeroDivisionError) as raised:
        return raised
    return None


async def flood(tap: Tap, packet: bytes, seconds: float) -> None:
    """As fast as the device's queue takes it, and what it does not take is lost."""
    until = clock.now() + seconds
    while clock.now() < until:
        with suppress(OSError):
            for _ in range(50):
                tap.wire.send(packet)
        await asyncio.sleep(0.001)


class Ticks:
    """Looks every 10 ms how long the loop was busy with something else. `longest` in seconds."""

    longest = 0.0

    async def run(self) -> None:
        while True:
            before = clock.now()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, clock.now() - before)


def is_watched(descriptor: int) -> bool:
    loop = asyncio.get_running_loop()
    return loop.remove_reader(descriptor) or loop.remove_writer(descriptor)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_exactly(sock: socket.socket, count: int) -> bytes:
    sock.settimeout(10)
    got = bytearray()
    while len(got) < count:
        got += sock.recv(count - len(got))
    return bytes(got)


def read_until_quiet(sock: socket.socket) -> bytes:
    sock.settimeout(0.3)
    got = bytearray()
    with suppress(TimeoutError):
        while piece := sock.recv(1 << 18):
            got += piece
    return bytes(got)
