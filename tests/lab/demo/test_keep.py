from __future__ import annotations

import asyncio
import os
import pty
import shlex
import shutil

from tests.conftest import missing
from tunneld.lab.demo import keep


def test_without_root_the_user_namespace_comes_first():
    assert keep.enter_command(7, "root") == "nsenter -t 7 -n -m"
    assert keep.enter_command(7, "userns") == "nsenter -t 7 -U --preserve-credentials -n -m"


async def shown(stream, text: str) -> str:
    async with asyncio.timeout(5):
        while text not in stream.getvalue():  # noqa: ASYNC110 (a text stream has no event)
            await asyncio.sleep(0.01)
    return stream.getvalue()


async def test_the_command_enters_the_host_and_enter_ends_it(pair, lab, screen, stream):
    if shutil.which("nsenter") is None:
        missing("nsenter is not installed: apt-get install util-linux")
    master, slave = pty.openpty()
    with os.fdopen(slave) as stdin, os.fdopen(master, "wb", buffering=0) as keyboard:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(keep.wait(screen, lab, "root", stdin))
            text = await shown(stream, "Press Enter")
            for name, host in lab.hosts.items():
                (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
                command = [*shlex.split(line)[1:], "readlink", "/proc/self/ns/net"]
                entered = (await pair.left.run(command)).output.strip()
                assert entered == host.call(lambda: os.readlink("/proc/thread-self/ns/net"))
            assert not waiting.done()
            keyboard.write(b"\n")


async def test_without_a_terminal_it_waits_for_a_signal(lab, pair, screen, stream):
    with open(os.devnull) as stdin:  # noqa: ASYNC230
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(keep.wait(screen, lab, "root", stdin))
            assert f"kill {os.getpid()}" in await shown(stream, "End it all by")
            waiting.cancel()
    assert waiting.cancelled()
