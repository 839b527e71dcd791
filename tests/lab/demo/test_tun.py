from __future__ import annotations

import pytest

from tunneld.lab import network
from tunneld.lab.demo import plain, scene, tun


@pytest.fixture(autouse=True)
def small_file(monkeypatch):
    monkeypatch.setattr(tun, "FILE_BYTES", 3_000_000)


@pytest.mark.long
async def test_every_step_passes_and_nothing_of_the_secret_is_on_the_wire(pair, keys, screen, stream, steps):
    daemons = await tun.play(screen, pair, keys)
    shown = stream.getvalue()
    assert steps() == ["daemons", "handshake", "device", "ping", "wire", "file", "shell"]
    assert "192.0.2.1 > 192.0.2.2 UDP, 96 bytes:\n        84 00 00 00 " in shown
    assert "0 show it" in shown
    assert "swordfish|" not in shown
    assert "3 MB in " in shown
    assert not (pair.left.run_dir / "file").exists()
    assert all(daemon.child.running for daemon in daemons)


async def test_a_tunnel_in_clear_would_be_noticed(pair, screen, stream, monkeypatch):
    daemons = await plain.start(screen, pair)
    for name in ("RIGHT", "PORT"):
        monkeypatch.setattr(tun, name, getattr(plain, name))
    with pytest.raises(scene.CheckError, match="frames on eth0 show what left said"):
        await tun._wire(screen, pair)
    assert all(daemon.child.running for daemon in daemons)


async def test_a_cut_wire_fails_the_handshake(pair, keys, screen, stream, monkeypatch):
    monkeypatch.setattr(scene, "PATIENCE", 0.5)
    await network.set_state(pair.right, "eth0", "down")
    with pytest.raises(scene.FAILURES):
        await tun.play(screen, pair, keys)
    assert "✗ handshake   waited " in stream.getvalue()


@pytest.mark.long
async def test_a_damaged_file_fails_its_step(pair, keys, screen, stream, monkeypatch):
    monkeypatch.setattr(tun.traffic, "digest", lambda path: path.parent.name)
    with pytest.raises(scene.CheckError):
        await tun.play(screen, pair, keys)
    assert "✗ file        SHA-256 differs: sent left, received right" in stream.getvalue()
