from __future__ import annotations

import asyncio

import pytest

from tunneld.lab import network
from tunneld.lab.ping import internet_checksum, ping, wait_reachable


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("size", [0, 1, 56, 1400, 4000])
async def test_each_request_is_answered_and_timed(pair, family, size):
    answer = await ping(pair.left, getattr(pair, f"right_{family}"), count=3, interval=0.0, size=size)
    assert (answer.sent, answer.lost) == (3, 0)
    assert all(0 < seconds < 1 for seconds in answer.times)


@pytest.mark.parametrize("address", ["192.0.2.77", "2001:db8::77", "198.51.100.1", "3fff::1"])
async def test_silence_and_a_missing_route_are_loss(pair, address):
    assert (await ping(pair.left, address, count=2, interval=0.0, timeout=0.1)).lost == 2


async def test_two_at_once_do_not_take_each_others_answers(pair):
    answers = await asyncio.gather(*(ping(pair.left, pair.right_v4, count=20, interval=0.0) for _ in range(5)))
    assert [answer.lost for answer in answers] == [0] * 5


async def test_an_answer_to_somebody_else_is_none_to_us(pair):
    async with asyncio.TaskGroup() as tasks:
        absent = tasks.create_task(ping(pair.left, "192.0.2.77", count=1, timeout=0.3))
        tasks.create_task(ping(pair.left, pair.right_v4, count=20, interval=0.0))
    assert absent.result().lost == 1


async def test_wait_reachable_ends_with_the_first_answer_and_has_a_bound(pair):
    await network.set_state(pair.right, "eth0", "down")
    with pytest.raises(TimeoutError):
        await wait_reachable(pair.left, pair.right_v4, timeout=0.3)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(wait_reachable(pair.left, pair.right_v4))
        await network.set_state(pair.right, "eth0", "up")
    assert waiting.done()


def test_checksum_is_that_of_rfc_1071():
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert internet_checksum(b"\x01") == 0xFEFF
    assert internet_checksum(b"") == 0xFFFF
