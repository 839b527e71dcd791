"""Whose turn it is: no link keeps the loop to itself."""

from __future__ import annotations

import asyncio

from tests.edge.pairs import link_and_socket
from tunneld.edge import clock
from tunneld.proto import framing
from tunneld.proto.errors import Reason
from tunneld.proto.plain import PlainTunnel
from tunneld.pump import Pump


async def test_a_stream_of_many_messages_lets_others_have_their_turn():
    """Each of its turns takes 16, and all of them come, though its socket is readable once only."""
    pump = Pump(PlainTunnel(mode="tap", max_packet=1500), clock.now)
    longest = before = 0
    async with link_and_socket() as (link, peer), asyncio.TaskGroup() as tasks:
        carried = tasks.create_task(pump.carry(link))
        peer.sendall(framing.encode([b""] * 20_000))
        for _ in range(100_000):
            await asyncio.sleep(0)
            received = pump.totals()["link_received_messages"]
            longest, before = max(longest, received - before), received
            if received == 20_000:
                break
        carried.cancel()
    assert pump.drops() == {Reason.EMPTY: 20_000}
    assert longest <= 2 * framing.TURN_RECORDS  # its turn, and one that is readable beside it
