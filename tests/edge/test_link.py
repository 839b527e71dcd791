"""What the pump may rely on: one contract, and every kind of link is held to it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.edge.pairs import readable, receive, tcp_links, udp_links
from tunneld.proto.errors import LinkDown

PAIRS = {"tcp": tcp_links, "udp": udp_links}


@pytest.fixture(params=["tcp-127.0.0.1", "tcp-::1", "udp-127.0.0.1", "udp-::1"])
async def ends(request):
    kind, _, host = request.param.partition("-")
    async with PAIRS[kind](host) as links:
        yield links


async def test_nothing_waits_at_first(ends):
    for link in ends:
        assert link.recv_batch(0.0) == []
        assert not link.blocked
        assert link.send_batch([]) == 0
        link.flush()
        assert link.drops == Counter()


async def test_messages_arrive_whole_and_in_order_in_both_directions(ends):
    source = random.Random(7)
    for sender, receiver in (ends, ends[::-1]):
        sent = [source.randbytes(source.randint(1, 1400)) for _ in range(64)]
        at = 0
        while at < len(sent):
            size = source.randint(1, 20)
            assert sender.send_batch(sent[at : at + size]) == len(sent[at : at + size])
            at += size
        assert receive(receiver, len(sent)) == sent
        assert receiver.recv_batch(0.0) == []


async def test_the_sender_may_use_its_memory_again_at_once(ends):
    sender, receiver = ends
    buffer = bytearray(b"first")
    sender.send_batch([memoryview(buffer)])
    buffer[:] = b"other"
    assert receive(receiver, 1) == [b"first"]


async def test_what_was_received_holds_until_the_next_batch(ends):
    sender, receiver = ends
    sender.send_batch([b"one", b"two"])
    batch = []
    while len(batch) < 2:
        assert readable(receiver.fileno())
        batch += receiver.recv_batch(0.0)
    sender.send_batch([b"overwritten?"] * 40)
    assert readable(receiver.fileno())
    assert batch == [b"one", b"two"]


async def test_the_descriptor_tells_when_there_is_something(ends):
    sender, receiver = ends
    assert not readable(receiver.fileno(), 0)
    sender.send_batch([b"x"])
    assert readable(receiver.fileno())


async def test_one_batch_is_bounded(ends):
    sender, receiver = ends
    sender.send_batch([b"x" * 1400] * 60)
    assert readable(receiver.fileno())
    assert sum(map(len, receiver.recv_batch(0.0))) <= 64 * 1024


async def test_a_peer_that_is_gone_is_the_worlds_fault_and_nothing_else(ends):
    sender, receiver = ends
    receiver.close()
    assert fate(sender) in {"the peer closed the connection", "Connection refused"}


async def test_the_memory_of_a_message_may_be_any_buffer(ends):
    sender, receiver = ends
    sender.send_batch([b"bytes", bytearray(b"bytearray"), memoryview(b"a memoryview")[2:]])
    assert receive(receiver, 3) == [b"bytes", b"bytearray", b"memoryview"]


async def test_it_says_who_talks_to_whom(ends):
    one, other = ends
    assert str(one).split()[1] == str(other).split()[-1]


async def test_close_may_be_called_again(ends):
    for link in ends * 2:
        link.close()


def fate(link) -> str:
    """What becomes of a link that goes on sending."""
    try:
        for _ in range(100):
            link.send_batch([b"x"] * 3)
            link.recv_batch(0.0)
    except LinkDown as down:
        return str(down)
    return link.trouble
