"""A host of the lab: a network namespace of its own, a directory for what runs in it, and real processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tunneld.edge import netns
from tunneld.lab import sandbox
from tunneld.lab.child import Child

# What systemd or a calling service says to us must not reach the processes of a host.
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended: its exit code (negative for a signal) and all that it wrote."""

    code: int
    output: str


class Host:
    """`namespace` is a descriptor that the host owns; `run_dir` is the RUNTIME_DIRECTORY of its processes.

    What is pushed on `resources` is closed with the host, after its processes.
    """

    def __init__(self, name: str, namespace: int, run_dir: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.run_dir = run_dir
        self.resources = ExitStack()
        self.resources.callback(os.close, namespace)
        self._children: list[Child] = []

    @classmethod
    def create(cls, name: str, run_dir: Path) -> Host:
        """A fresh namespace with `lo` up; `run_dir` is made. Raises OSError."""
        run_dir.mkdir(mode=0o700)
        host = cls(name, netns.new(), run_dir)
        host.call(sandbox.lo_up)
        host.call(_no_address_detection)
        return host

    def call(self, call: Callable[[], T]) -> T:
        """`call()` on a thread inside the host: to open a socket there, or read its /proc/thread-self/net."""
        return netns.call_in(self.namespace, call)

    def spawn(
        self, argv: Sequence[str], *, name: str, env: Mapping[str, str] | None = None, terminal: int | None = None
    ) -> Child:
        """Start a process in the host; its output goes to NAME.log in `run_dir`. See `Child.start`."""
        own = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
        own |= {"RUNTIME_DIRECTORY": str(self.run_dir), "STATE_DIRECTORY": str(self.run_dir / "state")}
        own |= {"HOST": self.name, **(env or {})}
        log = self.run_dir / f"{name}.log"
        child = Child.start(argv, namespace=self.namespace, env=own, log=log, terminal=terminal)
        self._children.append(child)
        return child

    async def run(self, argv: Sequence[str], timeout: float = 10.0) -> Completed:
        """Run a command to its end in the host. Raises TimeoutError, and has then killed it; OSError."""
        child = self.spawn(argv, name=f"run-{secrets.token_hex(4)}")
        try:
            return Completed(await child.wait(timeout), child.output())
        finally:
            await child.kill()
            child.log.unlink()
            self._children.remove(child)

    async def close(self) -> None:
        """End its processes, the youngest first, and give the namespace up."""
        while self._children:
            await self._children.pop().stop()
        self.resources.close()


def _no_address_detection() -> None:
    """Interfaces made from now on use their IPv6 addresses at once; duplicate detection would take two seconds."""
    setting = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
    if setting.exists():
        setting.write_text("0")
