from __future__ import annotations

import os
import sys

import pytest

from tunneld.lab.demo import play, tun


@pytest.fixture(autouse=True)
def small_file(monkeypatch):
    monkeypatch.setattr(tun, "FILE_BYTES", 3_000_000)


async def test_the_whole_demo_passes_and_leaves_nothing(namespaces, screen, stream):
    before = os.listdir("/proc/self/fd"), os.listdir("/run")
    assert await play.play(screen, "root", False, sys.stdin)
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("It works: all 14 steps passed, in ")
    assert max(map(len, lines)) <= 80
    assert (os.listdir("/proc/self/fd"), os.listdir("/run")) == before


async def test_a_failure_is_the_verdict_with_the_logs_of_the_daemons(namespaces, screen, stream, monkeypatch):
    monkeypatch.setattr(tun, "_CONFIG", tun._CONFIG.replace("[[peer]]", "[pear]"))
    assert not await play.play(screen, "root", False, sys.stdin)
    shown = stream.getvalue()
    assert "packets.log on left:" in shown
    assert "pear" in shown
    assert shown.splitlines()[-1].startswith("It does not work: a step failed after 1 that passed, in ")


def test_every_line_of_the_picture_fits_a_terminal():
    assert max(map(len, play.PICTURE.splitlines())) < 80
