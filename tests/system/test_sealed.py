"""The sealed protocols over every transport, mode and cipher: what goes in at one end comes out at the other.

left t0 10.9.0.1 ══ sealed ══ 10.9.0.2 t0 right
"""

from __future__ import annotations

import asyncio

import pytest

from tests.system.conftest import INSIDE, start
from tests.system.sealed import CIPHERS, Sealed
from tunneld.lab import network
from tunneld.lab.ping import ping
from tunneld.lab.traffic import make_file, transfer

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

SIZES = (0, 1, 56, 1372, 4000)  # bytes of ping data; 1,372 fill an IPv4 packet of 1,400, the last goes in fragments
BYTES = 1_000_000
# What the kernel says to groups that nobody routes, and what it says before there is a way.
HARMLESS = {"no-allowed-ip", "no-link", "no-peer", "no-session"}

TUNNELS = [
    pytest.param(Sealed(transport, mode, cipher=cipher), id=f"{transport}-{mode}-{cipher}")
    for transport in ("udp", "tcp")
    for mode in ("tun", "tap")
    for cipher in CIPHERS
]
TUNNELS.append(pytest.param(Sealed(protocol="wireguard"), id="wireguard"))


@pytest.mark.parametrize("setup", TUNNELS)
async def test_packets_of_every_size_and_streams_both_ways_arrive_as_they_were_sent(hosts, setup, tmp_path):
    left, right = await start(hosts, setup)
    for family in ("v4", "v6") if network.HAS_IPV6 else ("v4",):
        for size in SIZES:
            assert (await ping(hosts.left, INSIDE[family][1], count=1, size=size)).lost == 0
            assert (await ping(hosts.right, INSIDE[family][0], count=1, size=size)).lost == 0
    make_file(tmp_path / "sent", BYTES)
    async with asyncio.TaskGroup() as tasks:
        streams = [
            tasks.create_task(
                transfer(sender, tmp_path / "sent", receiver, tmp_path / receiver.name, (address, 7000 + number))
            )
            for number, (sender, receiver, address) in enumerate(
                ((hosts.left, hosts.right, INSIDE["v4"][1]), (hosts.right, hosts.left, INSIDE["v4"][0]))
            )
        ]
    assert [stream.result().intact for stream in streams] == [True, True]
    for daemon in (left, right):
        status = await daemon.status()
        assert (status["protocol"], status["cipher"]) == (setup.protocol, setup.cipher)
        assert status["peers"][0]["differences"] == []
        assert status["drops"].keys() <= HARMLESS
    assert [await left.stop(), await right.stop()] == [0, 0]
    assert "Traceback" not in left.log() + right.log()
