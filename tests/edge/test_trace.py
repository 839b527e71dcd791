from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_interface

import pytest

from tests.edge.pairs import readable
from tunneld.edge.trace import TracedDevice
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import AddressAdd, LinkSet
from tunneld.proto.errors import Reason

pytestmark = pytest.mark.usefixtures("namespaces")

PACKET = bytes.fromhex("4500001c000000004011000005050501050505020001000200080000")


@pytest.fixture
async def device():
    with closing(TracedDevice.open("trace0", "tun")) as device:
        async with Kernel.open() as kernel:
            await kernel.execute(LinkSet("trace0", "state", "up", "down"))
            await kernel.execute(AddressAdd("trace0", ip_interface("5.5.5.1/30"), flags=0, protocol=0))
        yield device


def read(device, count):
    lengths = []
    while len(lengths) < count:
        assert readable(device.fd)
        # The kernel sends some IPv6 of its own.
        lengths += [len(packet) for packet in device.read_batch(16) if packet[0] >> 4 == 4]
    return lengths


async def test_one_line_for_every_packet_that_was_read(device, capsys):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in (10, 20):
            sock.sendto(bytes(size), ("5.5.5.2", 9))
    assert read(device, 2) == [38, 48]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == device.packets_read
    numbers = [int(line.split()[1].rstrip(":")) for line in lines]
    assert numbers == list(range(1, len(lines) + 1))
    assert lines[-1] == f"TAP2NET {len(lines)}: 48 bytes from trace0"


async def test_one_line_for_every_packet_that_the_kernel_took(device, capsys):
    device.write_batch([PACKET, b"\x01", PACKET])
    device.write_batch([memoryview(PACKET)])
    assert capsys.readouterr().err.splitlines() == [f"NET2TAP {number}: 28 bytes to trace0" for number in (1, 2, 3)]
    assert device.drops == {Reason.DEVICE_REFUSED: 1}
