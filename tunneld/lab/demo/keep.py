"""What `--keep` does: a process holds each host open, so that a person can enter it; Enter or Ctrl-C ends it all."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from typing import TextIO

from tunneld.lab.child import readable
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Lab

_HOLD = "import signal; signal.pause()"


def enter_command(pid: int, mode: str) -> str:
    """The command that enters the host that `pid` holds; `mode` is what `sandbox.enter` returned."""
    # Without root the namespaces belong to our user namespace, which has to be entered first.
    user = "" if mode == "root" else " -U --preserve-credentials"
    return f"nsenter -t {pid}{user} -n -m"


async def wait(screen: Screen, lab: Lab, mode: str, stdin: TextIO) -> None:
    """Say how to enter the hosts, then wait for Enter, or without a terminal for a signal."""
    screen.heading("The hosts stay. These start a shell in one, from another terminal:")
    for name, host in lab.hosts.items():
        holder = host.spawn([sys.executable, "-c", _HOLD], name="holder")
        screen.detail(f"{name:<8} {enter_command(holder.pid, mode)}")
    left = lab.hosts["left"]
    tunneld = shlex.join([sys.executable, "-m", "tunneld"])
    screen.detail(f"There: ping 10.9.0.2; or RUNTIME_DIRECTORY={left.run_dir} {tunneld} show")
    if stdin.isatty():
        screen.detail("Press Enter here, or Ctrl-C, to end it all.")
        await readable(stdin.fileno())
        stdin.readline()
    else:
        screen.detail(f"End it all by: kill {os.getpid()}")
        await asyncio.Event().wait()
