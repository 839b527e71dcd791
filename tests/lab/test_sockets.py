from __future__ import annotations

import socket

import pytest

from tunneld.lab import sockets


async def test_sockets_belong_to_the_host_and_block_nothing(host):
    with sockets.udp(host, bind=("127.0.0.1", 7000)) as near, sockets.udp(host, connect=("127.0.0.1", 7000)) as far:
        assert (near.getblocking(), far.getblocking()) == (False, False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.bind(("127.0.0.1", 7000))  # the port is free here: this is another network


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_connect_reaches_a_listener(host, address):
    with sockets.tcp_listener(host, (address, 7000)), await sockets.tcp_connect(host, (address, 7000)) as sock:
        assert sock.getpeername()[:2] == (address, 7000)


async def test_a_refused_connection_names_both_ends(host):
    with pytest.raises(ConnectionRefusedError, match=r"127\.0\.0\.1 port 7000 from one"):
        await sockets.tcp_connect(host, ("127.0.0.1", 7000))


def test_family():
    assert sockets.family("192.0.2.1") == socket.AF_INET
    assert sockets.family("2001:db8::1") == socket.AF_INET6
