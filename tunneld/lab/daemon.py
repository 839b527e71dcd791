"""A real daemon in a host: `tunneld run FILE` as a child process, told apart from a mock by nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunneld.lab.child import Child, readable
from tunneld.lab.host import Host

POLL = 0.02  # seconds between two looks at the control socket
RUN = ("tunneld", "run")
CLOCKED = ("tunneld.lab.clocked",)  # the same by a clock that can be moved on


class DaemonEndedError(Exception):
    """The daemon ended while it was waited for. `str()` is one line that says so, then its log."""


class Daemon:
    """One running `tunneld run`. `config` is its file; rewrite it and start another to change it."""

    def __init__(self, host: Host, name: str, config: Path, child: Child, notify: socket.socket) -> None:
        self.host = host
        self.name = name
        self.config = config
        self.child = child
        self._notify = notify
        self._notified = ""

    @classmethod
    def start(
        cls, host: Host, text: str, *, name: str, options: Sequence[str] = (), command: Sequence[str] = RUN
    ) -> Daemon:
        """Write `text` as NAME.toml and start the daemon on it, with `options` such as ("--loop", "asyncio").

        `command` is RUN or CLOCKED; of the latter, `move_clock` moves the clock on.
        """
        config = host.run_dir / f"{name}.toml"
        config.write_text(text)
        config.chmod(0o600)
        address = host.run_dir / f"{name}.notify"
        address.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        host.resources.enter_context(notify)
        notify.bind(str(address))
        # A whole run of the tests on the other loop asks for it here, once.
        loop = os.environ.get("TUNNELD_LAB_LOOP")
        chosen = ["--loop", loop] if loop else []
        # And on another Python, which has the libraries, here.
        python = os.environ.get("TUNNELD_LAB_PYTHON") or sys.executable
        argv = [python, "-m", *command, str(config), *chosen, *options]
        child = host.spawn(argv, name=name, env={"NOTIFY_SOCKET": str(address)})
        return cls(host, name, config, child, notify)

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait for READY=1, as systemd would. Raises DaemonEndedError, TimeoutError."""
        async with asyncio.timeout(timeout):
            while "READY=1" not in self._notified.split("\n"):
                await self._readable_or_ended()
                with contextlib.suppress(BlockingIOError):
                    self._notified += self._notify.recv(4096).decode() + "\n"

    async def wait_state(self, state: str, timeout: float = 10.0) -> dict[str, Any]:
        """Wait until `tunneld show` says `state`; the whole status. Raises DaemonEndedError, TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(ConnectionError, FileNotFoundError):
                    status = await self.status()
                    if status["state"] == state:
                        return status
                self._must_run()
                await asyncio.sleep(POLL)

    async def status(self) -> dict[str, Any]:
        """What the control socket answers to `status`. Raises ConnectionError, FileNotFoundError: nobody listens."""
        reader, writer = await asyncio.open_unix_connection(str(self.host.run_dir / f"{self.name}.sock"))
        try:
            writer.write(b'{"request":"status"}\n')
            line = await reader.read()  # a line can be longer than readline would have it
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if not line:
            raise ConnectionResetError("the control socket closed without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def log(self) -> str:
        return self.child.output()

    def move_clock(self) -> None:
        """Move the clock of a CLOCKED daemon on by `clocked.STEP`."""
        self.child.signal(signal.SIGUSR1)

    async def stop(self) -> int:
        """SIGTERM as systemd would, SIGKILL after 5 s; the exit code."""
        return await self.child.stop()

    async def kill(self) -> int:
        """SIGKILL: what it leaves behind is left behind."""
        return await self.child.kill()

    async def _readable_or_ended(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await readable(self._notify.fileno())
        except TimeoutError:
            self._must_run()

    def _must_run(self) -> None:
        if not self.child.running:
            raise DaemonEndedError(f"tunneld run {self.config.name} has ended on {self.host.name}\n{self.log()}")
