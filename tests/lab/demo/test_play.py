from __future__ import annotations

import contextlib
import os
import sys

import pytest

from tunneld.lab.demo import play, tun


@pytest.mark.long
async def test_the_whole_demo_passes_and_leaves_nothing(namespaces, screen, stream, monkeypatch):
    monkeypatch.setattr(tun, "FILE_BYTES", 3_000_000)
    before = open_files(), os.listdir("/run")
    assert await play.play(screen, "root", False, sys.stdin)
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("It works: all ")
    assert max(map(len, lines)) <= 80
    assert open_files() == before[0]
    assert set(os.listdir("/run")) - {"wireguard"} == set(before[1])  # wireguard-go makes that, and leaves it


async def test_a_failure_is_the_verdict_with_the_logs_of_the_daemons(namespaces, screen, stream, monkeypatch):
    monkeypatch.setattr(tun, "_CONFIG", tun._CONFIG.replace("[[peer]]", "[pear]"))
    before = open_files(), os.listdir("/run")
    assert not await play.play(screen, "root", False, sys.stdin)
    shown = stream.getvalue()
    assert "packets.log on left:" in shown
    assert "pear" in shown
    assert shown.splitlines()[-1].startswith("It does not work: a step failed after 2 that passed, in ")
    assert (open_files(), os.listdir("/run")) == before


def test_every_line_of_the_picture_fits_a_narrow_terminal():
    assert max(map(len, play.PICTURE.splitlines())) <= 60


def open_files() -> set[str]:
    """What our descriptors stand for; uvloop keeps one of /dev/null from its first stream on."""
    files = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of listdir itself
            files.add(os.readlink(f"/proc/self/fd/{fd}"))
    return files - {"/dev/null"}
