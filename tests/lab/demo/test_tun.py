from __future__ import annotations

import pytest

from tunneld.lab import network
from tunneld.lab.demo import scene, tun


@pytest.fixture(autouse=True)
def small_file(monkeypatch):
    monkeypatch.setattr(tun, "FILE_BYTES", 3_000_000)


async def test_every_step_passes_and_the_capture_shows_the_secret_in_clear(pair, screen, stream):
    await tun.play(screen, pair)
    shown = stream.getvalue()
    steps = [line.split()[1] for line in shown.splitlines() if line.startswith("  ✓")]
    assert steps == ["daemons", "device", "addresses", "connection", "ping", "file", "session", "wire"]
    assert "|e password is sw|" in shown
    assert "outside: 192.0.2.1:55555 > 192.0.2.2:55555 UDP" in shown
    assert "inside:  10.9.0.1:" in shown
    assert "3 MB in " in shown
    assert not (pair.left.run_dir / "file").exists()


async def test_a_cut_wire_fails_the_connection(pair, screen, stream):
    await network.set_state(pair.right, "eth0", "down")
    with pytest.raises(scene.FAILURES):
        await tun.play(screen, pair)
    assert "✗ connection  10.9.0.2 does not answer left" in stream.getvalue()


async def test_a_damaged_file_fails_its_step(pair, screen, stream, monkeypatch):
    monkeypatch.setattr(tun.traffic, "digest", lambda path: path.parent.name)
    with pytest.raises(scene.CheckError):
        await tun.play(screen, pair)
    assert "✗ file        SHA-256 differs: sent left, received right" in stream.getvalue()
