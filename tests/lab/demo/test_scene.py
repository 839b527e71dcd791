from __future__ import annotations

import stat

import pytest

from tunneld.keys import load_private_key
from tunneld.lab import network
from tunneld.lab.daemon import DaemonEndedError
from tunneld.lab.demo import scene


async def test_pings_are_shown_with_their_round_trips(pair, screen, stream):
    await scene.pinged(screen, pair.left, pair.right_v4)
    assert f"left → {pair.right_v4}: {scene.PINGS} of {scene.PINGS}, " in stream.getvalue()


async def test_a_lost_ping_fails_the_step(pair, screen, stream, monkeypatch):
    monkeypatch.setattr(scene, "PINGS", 1)
    await network.set_state(pair.right, "eth0", "down")
    with pytest.raises(scene.CheckError):
        await scene.pinged(screen, pair.left, pair.right_v4)
    assert f"✗ ping        {pair.right_v4} answered only 0 of 1 pings from left" in stream.getvalue()


async def test_reached_says_who_does_not_answer(pair):
    await scene.reached(pair.left, pair.right_v4)
    with pytest.raises(scene.CheckError, match=r"198\.51\.100\.1 does not answer left"):
        await scene.reached(pair.left, "198.51.100.1")


async def test_a_daemon_that_does_not_start_fails_the_step_with_its_log(pair, screen, stream):
    with pytest.raises(DaemonEndedError, match="private_key_file"):
        await scene.start(screen, "bad", [(pair.left, "[tunnel]\n")])
    assert stream.getvalue() == "  ✗ daemons     tunneld run bad.toml has ended on left\n"


async def test_links_are_those_of_the_kernel(pair):
    observed = await scene.observe(pair.left)
    assert scene.link_of(observed, "eth0").state == "up"
    with pytest.raises(scene.CheckError, match="there is no interface tun0"):
        scene.link_of(observed, "tun0")


def test_expect():
    scene.expect(True, "")
    with pytest.raises(scene.CheckError, match="otherwise"):
        scene.expect(False, "otherwise")


async def test_keys_are_made_by_the_commands_of_an_operator(pair, screen, stream):
    keys = await scene.make_keys(screen, pair)
    for host, public in ((pair.left, keys.left), (pair.right, keys.right)):
        assert stat.S_IMODE(host.run_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((host.run_dir / scene.KEY).stat().st_mode) == 0o600
        assert str(load_private_key(scene.KEY, host.run_dir).public_key()) == public
        assert f"{host.name} is {public[:8]}…" in stream.getvalue()
