from __future__ import annotations

import pytest

from tunneld.lab import network
from tunneld.lab.shell import Session


@pytest.mark.parametrize("family", ["v4", "v6"])
async def test_commands_run_on_the_server_and_every_key_is_echoed(pair, family):
    address = (getattr(pair, f"right_{family}"), 7022)
    async with Session.open(pair.left, pair.right, address) as session:
        seen = []
        typed = await session.type("echo this is $HOST", progress=seen.append)
        assert typed.answer == "this is right"
        assert len(typed.echoes) == len("echo this is $HOST")
        assert all(0 < seconds < 1 for seconds in typed.echoes)
        assert seen[-1] == "echo this is $HOST"
        assert (await session.type("expr 6 '*' 7")).answer == "42"
        assert (await session.type("test -t 0 && echo a terminal")).answer == "a terminal"


async def test_a_long_answer_arrives_whole(pair):
    async with Session.open(pair.left, pair.right, (pair.right_v4, 7022)) as session:
        answer = (await session.type("seq 1 20000")).answer
    assert [int(number) for number in answer.split()] == list(range(1, 20001))


async def test_a_dead_wire_is_a_timeout(pair):
    async with Session.open(pair.left, pair.right, (pair.right_v4, 7022), timeout=0.5) as session:
        await network.set_state(pair.right, "eth0", "down")
        with pytest.raises(TimeoutError):
            await session.type("echo")


async def test_a_shell_that_ends_is_a_reset_and_its_process_is_gone(pair):
    async with Session.open(pair.left, pair.right, (pair.right_v4, 7022), timeout=1.0) as session:
        pid = int((await session.type("echo $$")).answer)
        with pytest.raises((ConnectionResetError, TimeoutError)):
            await session.type(f"kill -9 {pid}")
    assert (await pair.right.run(["sh", "-c", f"kill -0 {pid}"])).code != 0
