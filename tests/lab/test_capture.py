from __future__ import annotations

import struct

import pytest

from tunneld.edge.device import Device
from tunneld.lab import network, sockets
from tunneld.lab.capture import Capture
from tunneld.lab.ping import ping


async def test_both_directions_are_seen_and_told_apart(pair):
    with Capture(pair.left, "eth0") as capture:
        await ping(pair.left, pair.right_v4, count=1)
        request = await capture.wait_for(lambda packet: "echo request" in str(packet))
        reply = await capture.wait_for(lambda packet: "echo reply" in str(packet))
    assert (request.outgoing, reply.outgoing) == (True, False)
    assert request.ethernet
    assert request.data[:6].hex(":") == network.mac(pair.right, "eth0")


async def test_only_the_named_interface_is_seen(pair):
    with Capture(pair.left, "lo") as capture, sockets.udp(pair.left, connect=(pair.right_v4, 9)) as sock:
        sock.send(b"elsewhere")
        with pytest.raises(TimeoutError):
            await capture.wait_for(lambda packet: b"elsewhere" in packet.data, timeout=0.2)


async def test_packets_of_a_tun_device_have_no_ethernet_header(host):
    device = Device.open("tun7", "tun", namespace=host.namespace)
    try:
        await network.set_state(host, "tun7", "up")
        await network.give(host, "tun7", "10.9.0.1/24")
        with Capture(host, "tun7") as capture, sockets.udp(host, connect=("10.9.0.2", 9)) as sock:
            sock.send(b"through the tunnel")
            packet = await capture.wait_for(lambda packet: b"through the tunnel" in packet.data)
        assert not packet.ethernet
        assert str(packet).startswith("10.9.0.1:")
    finally:
        device.close()


async def test_an_unknown_interface_is_an_os_error(host):
    with pytest.raises(OSError, match="No such device"):
        Capture(host, "absent")


@pytest.mark.parametrize("link", ["lo", "tun7"])
async def test_a_pcap_file_holds_every_packet_and_its_kind(host, tmp_path, link):
    device = Device.open("tun7", "tun", namespace=host.namespace)
    try:
        await network.set_state(host, "tun7", "up")
        await network.give(host, "tun7", "10.9.0.1/24")
        address = "127.0.0.1" if link == "lo" else "10.9.0.2"
        with Capture(host, link) as capture, sockets.udp(host, connect=(address, 9)) as sock:
            sock.send(b"for the file")
            await capture.wait_for(lambda packet: b"for the file" in packet.data)
    finally:
        device.close()
    capture.write_pcap(tmp_path / "pcap")
    file = (tmp_path / "pcap").read_bytes()
    assert struct.unpack("=IHHiIII", file[:24]) == (0xA1B2C3D4, 2, 4, 0, 0, 65535, 1 if link == "lo" else 101)
    read, at = [], 24
    while at < len(file):
        seconds, micros, length, original = struct.unpack_from("=IIII", file, at)
        assert (original, micros < 1_000_000, seconds > 1_600_000_000) == (length, True, True)
        read.append(file[at + 16 : at + 16 + length])
        at += 16 + length
    assert read == [packet.data for packet in capture.packets]
