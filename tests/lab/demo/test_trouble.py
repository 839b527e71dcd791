from __future__ import annotations

import pytest

from tunneld.lab.demo import scene, trouble, tun


@pytest.mark.long
async def test_the_tunnel_heals_and_renews_its_keys(pair, keys, screen, stream, steps):
    daemons = await scene.start(screen, "packets", tun.configs(pair, keys))
    for daemon in daemons:
        await daemon.wait_state("up")
    await trouble.play(screen, pair, daemons)
    assert steps() == ["daemons", "cable", "kill -9", "re-key"]
    assert "10 of 10 pings answered" in stream.getvalue()


async def test_keys_that_are_not_renewed_fail_the_step(pair, keys, screen, stream, monkeypatch):
    monkeypatch.setattr(trouble, "PATIENCE", 0.3)
    daemons = await scene.start(screen, "packets", tun.configs(pair, keys))
    for daemon in daemons:
        await daemon.wait_state("up")
    monkeypatch.setattr(type(daemons[1]), "move_clock", lambda daemon: None)
    with pytest.raises(TimeoutError):
        await trouble._renew(screen, pair, daemons[1])
    assert "✗ re-key      waited " in stream.getvalue()
