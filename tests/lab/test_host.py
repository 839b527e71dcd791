from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tunneld.lab.host import Host


async def test_call_runs_inside_and_lo_is_up(host):
    lines = host.call(lambda: Path("/proc/thread-self/net/if_inet6").read_text().splitlines())
    assert [line.split()[-1] for line in lines] == ["lo"]


async def test_run_returns_code_and_output_and_leaves_no_file(host):
    completed = await host.run(["sh", "-c", "echo $HOST; echo $RUNTIME_DIRECTORY >&2; exit 3"])
    assert completed.code == 3
    assert completed.output.split() == ["one", str(host.run_dir)]
    assert list(host.run_dir.iterdir()) == []


async def test_run_kills_what_takes_too_long(host):
    with pytest.raises(TimeoutError):
        await host.run(["sh", "-c", "echo $$ >$RUNTIME_DIRECTORY/pid; exec sleep 60"], timeout=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((host.run_dir / "pid").read_text()), 0)


async def test_what_systemd_says_to_us_is_not_passed_on(host, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    completed = await host.run(["sh", "-c", "echo [$NOTIFY_SOCKET$JOURNAL_STREAM]"])
    assert completed.output.strip() == "[]"


async def test_close_ends_the_processes_and_releases_every_descriptor(namespaces):
    before = set(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryDirectory() as directory:
        host = Host.create("two", Path(directory) / "two")
        children = [host.spawn(["sleep", "60"], name=f"sleep{number}") for number in range(3)]
        await host.close()
    assert [await child.wait(0) for child in children] == [-signal.SIGTERM] * 3
    assert set(os.listdir("/proc/self/fd")) == before
