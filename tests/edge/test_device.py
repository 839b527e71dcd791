"""
kernel ── tun0/tap0 ── Device          one namespace for each test, with nothing else in it
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import subprocess
import sys

import pytest

from tunneld.edge import ifinfo, netns, tuntap
from tunneld.edge.device import PACKET_MAX, Device, DeviceLostError
from tunneld.proto.errors import DeviceError, Reason

BROADCAST = b"\xff" * 6
SOURCE = bytes.fromhex("020000000001")
TEST_ETHERTYPE = b"\x88\xb5"  # IEEE 802: for local experiments
ETH_P_ALL = 3

pytestmark = pytest.mark.usefixtures("namespaces")


class Host:
    """A namespace with one device "t0" in it, up, with 10.9.0.1/24 and a neighbour 10.9.0.2 that is the test."""

    def __init__(self, mode: str) -> None:
        self.namespace = netns.new()
        self.device = Device.open("t0", mode, namespace=self.namespace)
        # The kernel speaks by itself on a fresh device (IPv6, IGMP, ARP): nobody here wants to hear it.
        self.ip("link set t0 addrgenmode none", "link set t0 multicast off arp off up", "addr add 10.9.0.1/24 dev t0")

    def ip(self, *commands: str) -> None:
        def run() -> None:
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True)

        netns.call_in(self.namespace, run)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return netns.call_in(self.namespace, lambda: socket.socket(family, kind, protocol))

    def drain(self) -> None:
        while self.device.read_batch(64):
            pass

    def close(self) -> None:
        self.device.close()
        os.close(self.namespace)


@pytest.fixture
def tun(ip):
    host = Host("tun")
    yield host
    host.close()


@pytest.fixture
def tap(ip):
    host = Host("tap")
    yield host
    host.close()


def test_packets_of_the_kernel_come_in_batches_in_order(tun):
    payloads = [bytes([i]) * (i + 1) for i in range(20)]
    tun.drain()
    with tun.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, ("10.9.0.2", 7))
    before = tun.device.packets_read, tun.device.bytes_read

    batches = [[bytes(packet) for packet in tun.device.read_batch(8)] for _ in range(4)]

    assert [len(batch) for batch in batches] == [8, 8, 4, 0]
    assert [packet[28:] for batch in batches for packet in batch] == payloads
    assert tun.device.packets_read - before[0] == 20
    assert tun.device.bytes_read - before[1] == sum(len(payload) + 28 for payload in payloads)


def test_packets_written_arrive_in_the_kernel_in_order(tun):
    payloads = [bytes([i]) * (i + 1) for i in range(20)]
    with tun.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.9.0.1", 7))
        sock.settimeout(5)

        tun.device.write_batch([udp(payload) for payload in payloads])

        assert [sock.recv(100) for _ in payloads] == payloads
    assert tun.device.packets_written == 20
    assert tun.device.bytes_written == sum(len(payload) + 28 for payload in payloads)
    assert not tun.device.drops


def test_frames_pass_both_ways_with_their_headers(tap):
    frames = [BROADCAST + SOURCE + TEST_ETHERTYPE + bytes([i]) * (46 + i) for i in range(10)]
    with tap.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("t0", 0x88B5))
        sock.settimeout(5)
        tap.device.write_batch(frames)
        assert [sock.recv(2000) for _ in frames] == frames

        tap.drain()
        for frame in frames:
            sock.send(frame)
        assert [bytes(frame) for frame in tap.device.read_batch(64)] == frames


def test_the_largest_packet_of_the_driver_is_read_and_written_whole(tun):
    tun.ip("link set t0 mtu 65535")
    payload = random.Random(1).randbytes(65_507)
    with tun.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.9.0.1", 7))
        sock.settimeout(5)
        tun.drain()
        sock.sendto(payload, ("10.9.0.2", 7))
        (packet,) = tun.device.read_batch(64)
        assert len(packet) == 65_535
        assert packet[28:] == payload

        tun.device.write_batch([udp(payload)])
        assert sock.recv(70_000) == payload


def test_a_tagged_frame_of_the_largest_size_is_not_cut(tap):
    tap.ip("link set t0 mtu 65521")
    frame = BROADCAST + SOURCE + b"\x81\x00\x00\x07" + TEST_ETHERTYPE + b"x" * 65_521
    with tap.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("t0", 0))
        tap.drain()
        sock.send(frame)

    assert tap.device.read_batch(1) == [frame]
    assert len(frame) == PACKET_MAX


def test_the_views_hold_until_the_next_batch_and_no_longer():
    with pair("tun") as (device, far):
        far.send(b"a" * 20)
        (first,) = device.read_batch(4)
        assert first == b"a" * 20
        far.send(b"b" * 20)
        device.read_batch(4)
        assert first == b"b" * 20


@pytest.mark.parametrize("mode", ["tun", "tap"])
def test_every_short_write_is_a_counted_drop_or_a_packet(mode, ip):
    host = Host(mode)
    rng = random.Random(2)
    junk = [rng.randbytes(size) for size in range(21)]
    junk += [bytes([first]) * size for first in (0x45, 0x60) for size in range(21)]
    junk += [rng.randbytes(rng.randrange(2000)) for _ in range(200)]
    try:
        host.device.write_batch(junk)

        refused = host.device.drops[Reason.DEVICE_REFUSED]
        assert host.device.drops.total() == refused
        assert host.device.packets_written + refused == len(junk)
        assert refused >= 3 * {"tun": 20, "tap": 14}[mode]
        if mode == "tun":  # a random first nibble is an IP version twice in 16
            assert refused > 200
    finally:
        host.close()


def test_a_single_byte_is_a_counted_drop_even_if_it_looks_like_ip(tun):
    tun.device.write_batch([b"\x45", b"", b"\x60"])

    assert tun.device.drops == {Reason.DEVICE_REFUSED: 3}
    assert tun.device.packets_written == 0


def test_a_device_that_is_down_refuses_and_works_again_when_up(tun):
    tun.ip("link set t0 down")
    tun.device.write_batch([udp(b"lost")] * 3)
    assert tun.device.drops == {Reason.DEVICE_DOWN: 3}
    assert tun.device.read_batch(4) == []

    tun.ip("link set t0 up")
    with tun.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.9.0.1", 7))
        sock.settimeout(5)
        tun.device.write_batch([udp(b"found")])
        assert sock.recv(100) == b"found"
    assert tun.device.drops == {Reason.DEVICE_DOWN: 3}


def test_a_full_device_drops_the_newest_and_counts():
    with pair("tun") as (device, far):
        packets = [i.to_bytes(20, "big") for i in range(2000)]
        device.write_batch(packets)

        assert device.drops[Reason.DEVICE_FULL] == 2000 - device.packets_written > 0
        assert [far.recv(100) for _ in range(device.packets_written)] == packets[: device.packets_written]


# --- loss


async def test_deletion_wakes_the_reader_at_once_and_once(tun):
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[str] = loop.create_future()
    wakes = 0

    def readable() -> None:
        nonlocal wakes
        wakes += 1
        try:
            while tun.device.read_batch(64):
                pass
        except DeviceLostError as error:
            loop.remove_reader(tun.device)
            lost.set_result(str(error))

    loop.add_reader(tun.device, readable)
    tun.ip("link del t0")
    started = loop.time()

    assert await asyncio.wait_for(lost, 5) == "t0: the device was deleted"
    assert loop.time() - started < 0.5
    seen = wakes
    for _ in range(50):
        await asyncio.sleep(0)
    assert wakes == seen
    tun.device.close()


async def test_a_device_set_down_and_up_keeps_its_reader(tun):
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bytes] = loop.create_future()

    def readable() -> None:
        for packet in tun.device.read_batch(64):
            if bytes(packet[28:]) == b"after":
                loop.remove_reader(tun.device)
                arrived.set_result(bytes(packet))

    loop.add_reader(tun.device, readable)
    tun.ip("link set t0 down", "link set t0 up")
    with tun.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"after", ("10.9.0.2", 7))

    assert await asyncio.wait_for(arrived, 5)


@pytest.mark.parametrize(
    "use",
    [
        lambda device: device.read_batch(4),
        lambda device: device.write_batch([udp(b"x")]),
        lambda device: device.set_persist(True),
    ],
)
def test_a_deleted_device_is_lost_to_every_call(tun, use):
    tun.ip("link del t0")
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="t0: the device was deleted"):
            use(tun.device)


def test_a_loss_is_told_at_once_even_with_packets_in_hand():
    with pair("tun", socket.SOCK_STREAM) as (device, far):
        far.send(b"a" * 20)
        device.write_batch([b"b" * 20])
        far.close()  # with something unread: the next read is one packet, the one after it fails

        with pytest.raises(DeviceLostError, match="pair: the device failed: Connection reset by peer"):
            device.read_batch(64)


def test_use_after_close_is_our_bug_and_not_a_loss():
    device = Device.open("closed0", "tun")
    device.close()
    device.close()

    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        device.read_batch(1)
    assert caught.value.errno == errno.EBADF
    assert ifinfo.lookup("closed0") is None


@pytest.mark.parametrize("factory", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_a_reader_taken_out_before_close_leaves_the_loop_alive(child, factory):
    # In a process of its own: what this guards against is an abort.
    said = child(f"""
import asyncio, uvloop

async def main():
    loop = asyncio.get_running_loop()
    for _ in range(3):
        device = Device.open("early0", "tun")
        loop.add_reader(device, device.read_batch, 4)
        loop.remove_reader(device)
        device.close()
        await asyncio.sleep(0)
    print("alive")

with asyncio.Runner(loop_factory={factory}) as runner:
    runner.run(main())
""")

    assert said == "alive"


# --- where and for how long


def test_the_device_is_made_in_the_namespace_that_was_given(tun):
    assert netns.call_in(tun.namespace, lambda: ifinfo.lookup("t0")) is not None
    assert ifinfo.lookup("t0") is None


def test_a_namespace_that_may_not_be_entered_is_one_line(child):
    said = child("""
namespace = netns.new()
drop_capabilities()
outcome(lambda: Device.open("t0", "tun", namespace=namespace))
""")

    assert said == "t0: cannot enter its network namespace: Operation not permitted; this needs CAP_SYS_ADMIN"


def test_a_failure_inside_a_namespace_is_told_as_outside(tun):
    with pytest.raises(DeviceError, match="t0: is a TUN device, not a TAP"):
        Device.open("t0", "tap", namespace=tun.namespace)


def test_an_existing_persistent_device_is_attached_and_left(ip):
    ip("tuntap", "add", "kept0", "mode", "tap")
    try:
        device = Device.open("kept0", "tap")
        assert device.persistent
        assert (device.name, device.mode) == ("kept0", "tap")
        device.close()
        assert ifinfo.lookup("kept0") is not None
    finally:
        tuntap.delete("kept0")


def test_a_device_that_shall_persist_is_left_behind(ip):
    device = Device.open("kept0", "tun")
    assert not device.persistent
    device.set_persist(True)
    assert device.persistent
    device.close()
    assert ifinfo.lookup("kept0") == ifinfo.Interface("tun", mode="tun", persistent=True)

    device = Device.open("kept0", "tun")
    device.set_persist(False)
    device.close()
    assert ifinfo.lookup("kept0") is None


def test_opening_needs_neither_pyroute2_nor_a_child_process():
    code = (
        "import sys; import tunneld.edge.device; assert not {'pyroute2', 'subprocess', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class pair:
    """A Device over a socket, for what a real device does too rarely to be tested."""

    def __init__(self, mode: str, kind: int = socket.SOCK_DGRAM) -> None:
        near, self._far = socket.socketpair(socket.AF_UNIX, kind)
        near.setblocking(False)
        self._device = Device(near.detach(), "pair", mode, persistent=False)

    def __enter__(self) -> tuple[Device, socket.socket]:
        return self._device, self._far

    def __exit__(self, *_) -> None:
        self._device.close()
        self._far.close()


def udp(payload: bytes) -> bytes:
    """An IPv4 packet from 10.9.0.2 port 7 to 10.9.0.1 port 7; the UDP checksum is left out, as IPv4 allows."""
    header = bytearray(bytes.fromhex("4500000000004000401100000a0900020a090001"))
    header[2:4] = (len(payload) + 28).to_bytes(2, "big")
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    ports = (7).to_bytes(2, "big") * 2
    return bytes(header) + ports + (len(payload) + 8).to_bytes(2, "big") + bytes(2) + payload
