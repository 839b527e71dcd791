from __future__ import annotations

import shutil

import pytest

from tests.conftest import missing
from tunneld.lab.demo import scene, wireguard


@pytest.fixture
def installed():
    for program, package in wireguard.PACKAGES.items():
        if shutil.which(program) is None:
            missing(f"{program} is not installed: apt-get install {package}")


async def test_a_wireguard_answers(installed, pair, keys, screen, stream, steps):
    await wireguard.play(screen, pair, keys)
    assert steps() == ["partner", "daemon", "ping", "wg show"]


async def test_a_program_that_ends_fails_the_step_by_what_it_said(installed, pair, keys, screen, stream):
    taken = pair.right.spawn(["wireguard-go", "-f", "wg0"], name="first")
    await wireguard.wait_ready(pair.right, taken)
    with pytest.raises(scene.CheckError, match="wireguard-go has ended on right"):
        await wireguard.wait_ready(pair.right, pair.right.spawn(["sh", "-c", "exit 1"], name="second"), "wg1")


async def test_without_the_programs_one_line_says_what_to_install(pair, keys, screen, stream, monkeypatch):
    monkeypatch.setattr(wireguard, "PACKAGES", {"no-such-program": "its-package", "sh": "dash"})
    await wireguard.play(screen, pair, keys)
    assert "  ○ wireguard   not installed: apt-get install its-package\n" in stream.getvalue()
    assert screen.passed == 0
