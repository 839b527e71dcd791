"""The kernel cuts super-packets too: what it makes of one is what we make of it. And what the kernel makes, we cut.

    super-packet ──> a0 ══ routed (TUN) or bridged (TAP) ══ b0 ──> segments

    sender ══ a0 ──> super-packets ──> the test cuts them ──> segments ──> b0 ══ receiver

a0 has a virtio header; b0 takes no offloads, so that the kernel has to cut before it, and checks what comes in by it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

import pytest

from tests.proto.superpackets import ACK, CWR, DESTINATIONS, ECE, FIN, PSH, Flow
from tunneld.edge import netns, tuntap
from tunneld.lab import network
from tunneld.proto.superpacket import segments_untrusted, slice_untrusted

IFF_VNET_HDR = 0x4000
TUNSETVNETLE = 0x400454DC
CSUM_AND_TSO = 0x07  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6
PATIENCE = 3.0  # seconds
MTU = 1500
VERSIONS = (4, 6) if network.HAS_IPV6 else (4,)

pytestmark = pytest.mark.usefixtures("namespaces", "iproute2")

ROUTED = {
    4: """
ip addr add 10.1.0.1/24 dev a0
ip addr add 10.2.0.1/24 dev b0
echo 1 > /proc/sys/net/ipv4/ip_forward
""",
    6: """
ip addr add fd01::1/64 dev a0 nodad
ip addr add fd02::1/64 dev b0 nodad
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
""",
}
BRIDGED = """
ip link add br0 type bridge
ip link set br0 up
ip link set a0 master br0
ip link set b0 master br0
"""
BOTH_UP = "ip link set a0 up\nip link set b0 up\n"

FLOWS = [
    Flow(),
    Flow(flags=ACK | PSH | FIN, ip_options=b"\x01" * 4),
    Flow(flags=ACK | CWR | ECE, sequence=0xFFFFFFF0),
    Flow(version=6, flags=ACK | PSH | CWR),
    Flow(tcp=False),
    Flow(tcp=False, version=6),
]


@pytest.mark.parametrize(("mode", "tagged"), [("tun", False), ("tap", False), ("tap", True)])
def test_the_kernel_cuts_as_we_do(mode, tagged):
    script = BOTH_UP + ("".join(ROUTED[version] for version in VERSIONS) if mode == "tun" else BRIDGED)
    choose = random.Random(31)
    with namespace(script, {"a0": (mode, IFF_VNET_HDR), "b0": (mode, 0)}) as (_, a, b):
        for flow in FLOWS:
            if flow.version not in VERSIONS:
                continue
            flow = replace(flow, ethernet=mode == "tap", tagged=tagged)
            for size, length in ((1000, 2001), (1300, 40_000), (7, 100), (1400, 2800)):
                payload = choose.randbytes(length)
                os.write(a, flow.super_packet(payload, size, hdr_len=flow.payload))
                # A router takes one hop off; a bridge takes nothing.
                after = replace(flow, hops=flow.hops - (mode == "tun"))
                ours = segments(after.super_packet(payload, size), mode)
                assert read_packets(b, len(ours), DESTINATIONS[flow.version]) == ours


@pytest.mark.parametrize("kind", ["super-packets", "slices"])
@pytest.mark.parametrize("mode", ["tun", "tap"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stream_that_we_cut_arrives_whole(version, mode, kind):
    family, *addresses = {4: (socket.AF_INET, "10.3.0.1", "10.3.0.2"), 6: (socket.AF_INET6, "fd03::1", "fd03::2")}[
        version
    ]
    nodad, length = ("nodad", 64) if version == 6 else ("", 24)
    up = "ip link set {0} up\nip addr add {1}/{2} dev {0} {3}\n"
    sent = random.Random(32).randbytes(1_000_000)
    with (
        namespace(up.format("a0", addresses[0], length, nodad), {"a0": (mode, IFF_VNET_HDR)}) as (left, a),
        namespace(up.format("b0", addresses[1], length, nodad), {"b0": (mode, 0)}) as (right, b),
        netns.call_in(right, lambda: socket.create_server((addresses[1], 5001), family=family)) as server,
        netns.call_in(left, lambda: socket.socket(family)) as sender,
    ):
        fcntl.ioctl(a, tuntap.TUNSETOFFLOAD, CSUM_AND_TSO)
        sender.setblocking(False)
        assert sender.connect_ex((addresses[1], 5001)) == errno.EINPROGRESS
        received, cut = relay(a, b, sender, server, sent, lambda body: cut_by(kind, body, mode))
    assert received == sent
    assert cut > 10, "the kernel made no super-packets"


def relay(a, b, sender, server, data, cut):
    """Carry packets between a0 and b0 until `data` has arrived; what did, and how many super-packets there were."""
    deadline = time.perf_counter() + PATIENCE
    received, unsent, joined = bytearray(), memoryview(data), 0
    with ExitStack() as stack:
        readers, writers = [a, b, server], [sender]
        while len(received) < len(data) and time.perf_counter() < deadline:
            for ready in chain(*select.select(readers, writers, [], 0.1)):
                if ready == a:
                    body = os.read(a, 10 + 65_536)
                    joined += body[1] != 0
                    for packet in cut(body):
                        os.write(b, packet)
                elif ready == b:
                    os.write(a, bytes(10) + os.read(b, 65_536))
                elif ready is server:
                    readers[2] = stack.enter_context(server.accept()[0])
                elif ready is sender:
                    unsent = unsent[sender.send(unsent[:200_000]) :]
                    writers = [sender] if unsent else []
                else:
                    received += ready.recv(1 << 20)
    return bytes(received), joined


def cut_by(kind: str, body: bytes, mode: str) -> list[bytes]:
    """The packets of a super-packet of the kernel, as it is or by way of slices as a sender would make them."""
    _, gso_type, _, size, start, _ = struct.unpack_from("<BBHHHH", body)
    if kind == "super-packets" or gso_type == 0:
        return segments(body, mode)
    headers = 10 + start + (body[10 + start + 12] >> 4) * 4
    slices = [body[:headers] + body[at : at + size] for at in range(headers, len(body), size)]
    return [
        slice_untrusted(memoryview(part), 640 + number, most=MTU + 18, ethernet=mode == "tap")
        for number, part in enumerate(slices)
    ]


def segments(body: bytes, mode: str) -> list[bytes]:
    return segments_untrusted(memoryview(body), most=MTU + 18, ethernet=mode == "tap")


@contextmanager
def namespace(script: str, devices: Mapping[str, tuple[str, int]]) -> Iterator[tuple[int, ...]]:
    """A namespace in which `script` was run, and its `devices`, by mode and flags; they go with it."""
    with ExitStack() as stack:
        inside = netns.new()
        stack.callback(os.close, inside)
        fds = []
        for name, (mode, flags) in devices.items():
            fd = netns.call_in(inside, partial(tuntap.attach, name, mode, flags))
            stack.callback(os.close, fd)
            if flags:
                fcntl.ioctl(fd, TUNSETVNETLE, struct.pack("i", 1))
            fds.append(fd)
        command = ["sh", "-ec", script]
        netns.call_in(inside, lambda: subprocess.run(command, check=True, timeout=10))
        yield (inside, *fds)


def read_packets(fd: int, count: int, destination: bytes) -> list[bytes]:
    """`count` packets of the flow; what the kernel itself has to say to its neighbours is passed over."""
    packets: list[bytes] = []
    deadline = time.perf_counter() + PATIENCE
    while len(packets) < count and select.select([fd], [], [], max(0.0, deadline - time.perf_counter()))[0]:
        packet = os.read(fd, 65_536)
        if destination in packet[:60]:
            packets.append(packet)
    return packets
