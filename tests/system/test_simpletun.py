"""`tunneld simpletun` beside the original, which simpletun_reference.py stands for.

    left 192.0.2.1 ── tunneld simpletun ═══ TCP ═══ simpletun, or a hostile client ── 192.0.2.2 right
    left st0 10.9.0.1 ================================================ st0 10.9.0.2 right

The devices are persistent and configured by hand beforehand, as simpletun's users do it.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import socket
import struct
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.system.conftest import INSIDE, PORT, tunneld
from tunneld.lab import network, sockets
from tunneld.lab.child import Child
from tunneld.lab.host import Host
from tunneld.lab.ping import internet_checksum, ping, wait_reachable
from tunneld.lab.traffic import make_file, transfer

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

LEFT, RIGHT = INSIDE["v4"]
MODES = {"tun": "-u", "tap": "-a"}
REFERENCE = str(Path(__file__).parent.parent / "simpletun_reference.py")
MAX_TUN_PACKET = 1500


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ["server", "client"])
async def test_packets_and_a_large_file_pass_both_ways(hosts, role, mode, tmp_path):
    await devices(hosts, mode)
    if role == "server":
        ours = await serving(hosts, MODES[mode])
        theirs = simpletun(hosts.right, "-c", hosts.left_v4, MODES[mode])
    else:
        theirs = simpletun(hosts.right, "-s", MODES[mode])
        await until_listening(hosts.right)
        ours = start(hosts.left, "-c", hosts.right_v4, MODES[mode])
    await wait_reachable(hosts.left, RIGHT)
    for host, far in ((hosts.left, RIGHT), (hosts.right, LEFT)):
        assert (await ping(host, far, count=20, interval=0.0)).lost == 0
        assert (await ping(host, far, size=1400)).lost == 0
    for sender, receiver, far, size in (
        (hosts.left, hosts.right, RIGHT, 20_000_000),
        (hosts.right, hosts.left, LEFT, 5_000_000),
    ):
        make_file(tmp_path / "sent", size)
        moved = await transfer(sender, tmp_path / "sent", receiver, tmp_path / "received", (far, 7000))
        assert moved.intact
    assert theirs.running, theirs.output()
    assert await ours.stop() == 0
    assert await theirs.wait(5) == 0, "the end of its peer is simpletun's own"


async def test_the_server_serves_the_next_client_when_one_leaves(hosts):
    await devices(hosts, "tun")
    ours = await serving(hosts)
    for _ in range(3):
        theirs = simpletun(hosts.right, "-c", hosts.left_v4)
        await wait_reachable(hosts.left, RIGHT)
        await theirs.kill()
    assert ours.running
    assert len(re.findall("peer simpletun: up:", ours.output())) == 3


async def test_the_client_comes_back_when_the_server_does(hosts):
    """simpletun's own client ends with its server; ours is the better for it."""
    await devices(hosts, "tun")
    ours = start(hosts.left, "-c", hosts.right_v4)
    for _ in range(2):
        theirs = simpletun(hosts.right, "-s")
        await wait_reachable(hosts.left, RIGHT)
        await theirs.kill()
    assert ours.running


async def test_a_client_that_sends_one_byte_at_a_time_is_understood(hosts):
    await devices(hosts, "tun")
    await serving(hosts)
    async with raw_client(hosts) as client:
        for sequence in range(3):
            for octet in framed(echo_request(sequence)):
                await asyncio.get_running_loop().sock_sendall(client, bytes([octet]))
            assert await echo_reply(client) == sequence


HOSTILE = {
    "zero": b"\0\0" * 1000,
    "one": b"\0\1\x45" * 100,
    "larger-than-the-device-takes": struct.pack("!H", MAX_TUN_PACKET + 1) + bytes(MAX_TUN_PACKET + 1),
    "65535": (b"\xff\xff" + b"\x45" * 65_535) * 3,
    "junk": b"".join(struct.pack("!H", size) + random.Random(size).randbytes(size) for size in range(2, 1500, 50)),
}


@pytest.mark.parametrize("bad", HOSTILE)
async def test_hostile_lengths_neither_end_nor_desynchronise_the_stream(hosts, bad):
    await devices(hosts, "tun")
    ours = await serving(hosts)
    async with raw_client(hosts) as client:
        for sequence in range(3):
            await asyncio.get_running_loop().sock_sendall(client, HOSTILE[bad] + framed(echo_request(sequence)))
            assert await echo_reply(client) == sequence
    assert ours.running
    assert "Traceback" not in ours.output()


async def test_a_client_that_leaves_within_a_packet_does_no_harm(hosts):
    await devices(hosts, "tun")
    ours = await serving(hosts)
    for rest in (b"\0", b"\xff\xff", b"\xff\xff" + bytes(1000)):
        async with raw_client(hosts) as client:
            await asyncio.get_running_loop().sock_sendall(client, rest)
    async with raw_client(hosts) as client:
        client.send(framed(echo_request(7)))
        assert await echo_reply(client) == 7
    assert "in the middle of a packet" in ours.output()


async def test_d_prints_a_line_for_every_packet(hosts):
    await devices(hosts, "tun")
    ours = await serving(hosts, "-d")
    async with raw_client(hosts) as client:
        client.send(framed(echo_request(0)))
        assert await echo_reply(client) == 0
    assert await ours.stop() == 0
    size = len(echo_request(0))
    assert re.search(rf"^NET2TAP 1: {size} bytes to st0$", ours.output(), re.M)
    assert re.search(rf"^TAP2NET \d+: {size} bytes from st0$", ours.output(), re.M)


async def test_p_is_the_port_and_without_it_it_is_simpletuns(hosts):
    await devices(hosts, "tun")
    ours = await serving(hosts, "-p", "5000", port=5000)
    theirs = simpletun(hosts.right, "-c", hosts.left_v4, "-p", "5000")
    await wait_reachable(hosts.left, RIGHT)
    assert await ours.stop() == 0
    await theirs.wait(5)
    await serving(hosts, port=55555)


async def test_it_warns_and_leaves_the_device_and_its_addresses_alone(hosts, iproute2):
    await devices(hosts, "tun")
    before = (await hosts.left.run(["ip", "-4", "addr", "show", "st0"])).output
    ours = await serving(hosts)
    assert "everything in this tunnel travels in clear" in ours.output()
    ours.signal(signal.SIGINT)
    assert await ours.wait(5) == 0
    after = (await hosts.left.run(["ip", "-4", "addr", "show", "st0"])).output
    assert settled(after) == settled(before)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("-i", "st0", "-c", "192.0.2.2", "-s"), "not allowed with argument"),
        (("-i", "st0"), "one of the arguments -s -c is required"),
        (("-s",), "the following arguments are required: -i"),
        (("-i", "st0", "-s", "-p", "0"), "-p: port '0': must be 1..65535"),
    ],
)
async def test_wrong_flags_are_one_line_and_exit_2(hosts, flags, line):
    done = await tunneld(hosts.left, "simpletun", *flags)
    assert done.code == 2
    assert line.replace("'", "") in done.output.replace('"', "").replace("'", "")
    assert "Traceback" not in done.output


async def test_a_device_in_the_other_mode_is_refused(hosts):
    await devices(hosts, "tap")
    done = await tunneld(hosts.left, "simpletun", "-i", "st0", "-s", "-u")
    assert done.code == 1
    assert "st0: is a TAP device, not a TUN" in done.output


# --- what the tests are made of


async def devices(hosts, mode: str) -> None:
    """st0 on both hosts: persistent, with its address, up."""
    for host, address in ((hosts.left, LEFT), (hosts.right, RIGHT)):
        made = await tunneld(host, "device", "add", "st0", "--mode", mode)
        assert made.code == 0, made.output
        await network.give(host, "st0", f"{address}/24")
        await network.set_state(host, "st0", "up")


def start(host: Host, *flags: str) -> Child:
    argv = [sys.executable, "-m", "tunneld", "simpletun", "-i", "st0", *flags]
    return host.spawn(argv, name="tunneld")


async def serving(hosts, *flags: str, port: int = PORT) -> Child:
    ours = start(hosts.left, "-s", *flags)
    await until_listening(hosts.left, port)
    return ours


def simpletun(host: Host, *flags: str) -> Child:
    return host.spawn([sys.executable, REFERENCE, "-i", "st0", *flags], name="simpletun")


async def until_listening(host: Host, port: int = PORT) -> None:
    wanted = f":{port:04X} 00000000:0000 0A"
    async with asyncio.timeout(10):
        while wanted not in host.call(Path("/proc/thread-self/net/tcp").read_text):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def raw_client(hosts):
    """A connection of right's to the server on left, which the test writes by hand."""
    async with asyncio.timeout(10):
        with await sockets.tcp_connect(hosts.right, (hosts.left_v4, PORT)) as client:
            yield client


def framed(packet: bytes) -> bytes:
    return struct.pack("!H", len(packet)) + packet


def echo_request(sequence: int) -> bytes:
    """An IPv4 packet from right's inner address to left's: an ICMP echo request of 56 bytes."""
    message = struct.pack("!BBHHH", 8, 0, 0, 0x7475, sequence) + bytes(56)
    message = message[:2] + struct.pack("!H", internet_checksum(message)) + message[4:]
    ends = socket.inet_aton(RIGHT) + socket.inet_aton(LEFT)
    header = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(message), 0, 0, 64, socket.IPPROTO_ICMP, 0, ends)
    return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:] + message


async def echo_reply(client: socket.socket) -> int:
    """The sequence number of the next echo reply among the packets that come back."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        while True:
            (length,) = struct.unpack("!H", await exactly(loop, client, 2))
            packet = await exactly(loop, client, length)
            if packet[0] >> 4 == 4 and packet[20] == 0:
                return int.from_bytes(packet[26:28], "big")


async def exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = await loop.sock_recv(sock, count - len(got))
        assert piece, "the server closed the connection"
        got += piece
    return got


def settled(shown: str) -> str:
    """`ip addr` without the carrier, which comes and goes with the process that holds the device."""
    return re.sub(r"<[^>]*>|state \S+", "", shown)
