"""Under a flood of handshakes each end makes the other prove its address by a cookie, and lets it through then.

left eth0, calls, and from another port the flood ──────────── eth0 right, is flooded
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.system.conftest import INSIDE, inside
from tests.system.wireguard import (
    PORT,
    Key,
    WireGuard,
    at,
    host_prefixes,
    initiation_of_noise,
    is_cookie,
    is_initiation,
    is_response,
    tunneld,
    udp_payload,
)
from tunneld.keys import PublicKey
from tunneld.lab import sockets, topology
from tunneld.lab.capture import Capture
from tunneld.lab.child import readable
from tunneld.lab.ping import ping
from tunneld.lab.topology import Lab

pytestmark = [
    pytest.mark.long,  # five seconds are between two initiations, with a cookie or without
    pytest.mark.asyncio(loop_factories=["uvloop"]),
    pytest.mark.usefixtures("namespaces", "iproute2"),
]

# Bursts of so many messages, so many seconds apart: tunneld is under load from 500 a second on, wireguard-go when 128
# wait at once, and both for a second more.
BURST, PAUSE = 400, 0.2
COOKIE_BYTES = 64


async def test_each_end_gets_through_to_the_other_under_load_by_a_cookie():
    """Both ways at once: the second initiation comes five seconds after the first in any case."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(call(tunneld_calls=True))
        tasks.create_task(call(tunneld_calls=False))


async def call(*, tunneld_calls):
    async with Lab.open() as lab:
        hosts = await topology.pair(lab)
        ours, theirs = Key.generate(), Key.generate()
        ends = (hosts.left, hosts.right) if tunneld_calls else (hosts.right, hosts.left)
        addresses = [inside(0), inside(1)] if tunneld_calls else [inside(1), inside(0)]
        peer = {"public_key": theirs.public, "allowed_ips": host_prefixes(addresses[1])}
        go = await WireGuard.start(ends[1], theirs, addresses=addresses[1])
        await go.set_peer(ours.public, *host_prefixes(addresses[0]))
        if tunneld_calls:
            async with flood(hosts, theirs):
                with Capture(hosts.left, "eth0") as wire:
                    peer["endpoint"] = at(hosts.right_v4)
                    await tunneld(ends[0], ours, peer, addresses=addresses[0])
                    await gets_through(hosts, wire)
        else:
            daemon = await tunneld(ends[0], ours, peer, addresses=addresses[0])
            async with flood(hosts, ours):
                with Capture(hosts.left, "eth0") as wire:
                    await go.set_peer(ours.public, endpoint=at(hosts.right_v4), persistent_keepalive=1)
                    await gets_through(hosts, wire)
            status = await daemon.status()
            assert "no-cookie" in [cause["cause"] for cause in status["causes"]]


async def gets_through(hosts, wire):
    """Initiation, cookie, an initiation with a second MAC, its answer; then packets, all while the flood goes on."""
    await wire.wait_for(lambda packet: is_initiation(packet) and udp_payload(packet)[-16:] == bytes(16))
    await wire.wait_for(is_cookie)
    # Not at once after the cookie, which says nothing of when the next is due.
    await wire.wait_for(lambda packet: is_initiation(packet) and udp_payload(packet)[-16:] != bytes(16), timeout=15.0)
    await wire.wait_for(is_response)
    assert (await ping(hosts.left, INSIDE["v4"][1], count=3, timeout=3.0)).lost == 0


@contextlib.asynccontextmanager
async def flood(hosts, key):
    """Handshakes for `key`, which the right end has, with nothing in them; from when they are answered by cookies."""
    public = PublicKey.decode(key.public).raw
    noise = [initiation_of_noise(public) for _ in range(BURST)]
    with sockets.udp(hosts.right, connect=("127.0.0.1", PORT)) as sock:

        async def send():
            while True:
                for message in noise:
                    with contextlib.suppress(BlockingIOError):
                        sock.send(message)
                await asyncio.sleep(PAUSE)

        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(send())
            async with asyncio.timeout(5):
                await readable(sock.fileno())
            assert len(sock.recv(2000)) == COOKIE_BYTES
            yield
            sending.cancel()
