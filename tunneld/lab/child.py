"""A process inside a host. It dies when we die, however we die, and takes its process group along."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import termios
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunneld.edge import netns

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A started process. Its output stands in the file `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    @classmethod
    def start(
        cls, argv: Sequence[str], *, namespace: int, env: Mapping[str, str], log: Path, terminal: int | None = None
    ) -> Child:
        """Start `argv` in the network namespace `namespace`; its output is added to `log`.

        `terminal` is the slave side of a pty that becomes its controlling terminal, input and output. Call this on
        a thread that lives as long as the child may: the kernel kills the child when the thread that started it
        ends. Raises OSError.
        """
        parent = os.getpid()

        def enter() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # we died before prctl: no signal will come
                os._exit(1)
            netns.setns(namespace)
            if terminal is not None:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        with log.open("ab") as output, warnings.catch_warnings():
            # Only system calls run between fork and exec, so locks that other threads hold do not matter.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=output if terminal is None else terminal,
                stderr=output if terminal is None else terminal,
                preexec_fn=enter,
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """False from the moment the process ended, reaped or not."""
        if self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing if it has been waited for."""
        if self._process.returncode is None:
            os.killpg(self.pid, number)

    async def wait(self, timeout: float) -> int:
        """The exit code once it ended, negative for a signal; what is left of its group is killed.

        Raises TimeoutError after `timeout` seconds.
        """
        if self._process.returncode is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                async with asyncio.timeout(timeout):
                    await readable(pidfd)
            finally:
                os.close(pidfd)
            self.signal(signal.SIGKILL)  # until it is reaped, its number cannot belong to another group
        return self._process.wait()

    async def stop(self, timeout: float = 5.0) -> int:
        """SIGTERM, after `timeout` seconds SIGKILL; the exit code."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await self.wait(timeout)
        return await self.kill()

    async def kill(self) -> int:
        """SIGKILL; the exit code."""
        self.signal(signal.SIGKILL)
        return await self.wait(5.0)


async def readable(fd: int) -> None:
    """Wait until the descriptor can be read. One waiter per descriptor at a time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
