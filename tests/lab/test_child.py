from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tunneld.lab.child import readable

SLEEP = ["sleep", "60"]


def alive(pid: int) -> bool:
    """False for a zombie as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0.01)


async def gone(pid: int) -> None:
    await until(lambda: not alive(pid))


async def test_it_runs_inside_the_namespace_and_its_output_is_kept(host):
    child = host.spawn(["readlink", "/proc/self/ns/net"], name="link")
    assert await child.wait(5) == 0
    assert child.output().strip() == host.call(lambda: os.readlink("/proc/thread-self/ns/net"))
    assert child.output().strip() != os.readlink("/proc/self/ns/net")


async def test_the_exit_code_is_returned_every_time_it_is_asked_for(host):
    child = host.spawn(["sh", "-c", "exit 7"], name="seven")
    assert [await child.wait(5), await child.wait(5)] == [7, 7]
    assert not child.running


async def test_waiting_has_a_bound_and_leaves_it_running(host):
    child = host.spawn(SLEEP, name="sleep")
    with pytest.raises(TimeoutError):
        await child.wait(0.05)
    assert child.running
    assert await child.stop() == -signal.SIGTERM


async def test_one_that_ignores_sigterm_is_killed(host):
    child = host.spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"], name="deaf")
    await until(child.output)
    assert await child.stop(timeout=0.1) == -signal.SIGKILL


async def test_its_own_children_end_with_it(host):
    child = host.spawn(["sh", "-c", "sleep 60 & echo $!; exit 0"], name="parent")
    assert await child.wait(5) == 0
    await gone(int(child.output()))


async def test_a_terminal_becomes_its_controlling_one(host):
    master, slave = pty.openpty()
    child = host.spawn(["sh", "-c", "echo from the tty >/dev/tty"], name="tty", terminal=slave)
    os.close(slave)
    await readable(master)
    assert os.read(master, 100).split() == [b"from", b"the", b"tty"]
    assert await child.wait(5) == 0
    os.close(master)


async def test_an_unknown_program_is_an_os_error(host):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        host.spawn(["no-such-program"], name="none")


async def test_it_dies_with_us_even_when_we_are_killed(host):
    script = textwrap.dedent(
        """
        import os, pathlib, sys, time
        from tunneld.lab.child import Child
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        child = Child.start(["sleep", "60"], namespace=namespace, env=os.environ, log=pathlib.Path(sys.argv[1]))
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    argv = [sys.executable, "-c", script, str(host.run_dir / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    await gone(pid)
