from __future__ import annotations

import signal

import pytest

from tunneld.lab.daemon import Daemon, DaemonEndedError
from tunneld.lab.ping import ping, wait_reachable

CONFIG = """\
[tunnel]
protocol = "plain"
transport = "{transport}"
listen = "{own}:55555"
[interface]
name = "t0"
mode = "tun"
addresses = ["10.9.0.{number}/24"]
[[peer]]
endpoint = "{other}:55555"
"""


def config(pair, number: int, transport: str = "udp") -> str:
    own, other = (pair.left_v4, pair.right_v4)[:: 1 if number == 1 else -1]
    return CONFIG.format(own=own, other=other, number=number, transport=transport)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_daemons_make_a_tunnel_and_tell_their_state(pair, transport):
    left = Daemon.start(pair.left, config(pair, 1, transport), name="t")
    await left.wait_ready()
    await left.wait_state("connecting")
    right = Daemon.start(pair.right, config(pair, 2, transport), name="t")
    await right.wait_ready()
    await wait_reachable(pair.left, "10.9.0.2")
    for daemon in (left, right):
        assert (await daemon.wait_state("up"))["interface"] == "t0"
    assert "in clear" in left.log()
    assert await left.stop() == 0
    assert (await ping(pair.right, "10.9.0.1", count=1, timeout=0.1)).lost == 1


async def test_options_reach_the_daemon(pair):
    daemon = Daemon.start(pair.left, config(pair, 1), name="t", options=["--loop", "asyncio"])
    await daemon.wait_ready()
    refused = Daemon.start(pair.right, config(pair, 2), name="t", options=["--loop", "none"])
    with pytest.raises(DaemonEndedError, match="invalid choice"):
        await refused.wait_ready()


async def test_one_that_refuses_its_file_is_an_error_with_its_log(pair):
    daemon = Daemon.start(pair.left, "[tunnel]\nprotocol = 'plan'\n", name="t")
    with pytest.raises(DaemonEndedError, match=r"t\.toml:2: protocol"):
        await daemon.wait_ready()
    with pytest.raises(DaemonEndedError):
        await daemon.wait_state("up")
    assert await daemon.child.wait(5.0) == 2


async def test_a_state_that_does_not_come_is_a_timeout(pair):
    daemon = Daemon.start(pair.left, config(pair, 1), name="t")
    with pytest.raises(TimeoutError):
        await daemon.wait_state("no-such-state", timeout=1.0)
    assert daemon.child.running


async def test_a_killed_one_can_be_started_again(pair):
    first = Daemon.start(pair.left, config(pair, 1), name="t")
    await first.wait_ready()
    assert await first.kill() == -signal.SIGKILL
    with pytest.raises(ConnectionRefusedError):
        await first.status()
    second = Daemon.start(pair.left, config(pair, 1), name="t")
    await second.wait_ready()
    await second.wait_state("connecting")
