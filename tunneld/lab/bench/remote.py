"""The bench's side of a measuring end: start it in a host, ask it, take its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import Any

from tunneld.lab.bench.ends import Answer
from tunneld.lab.child import Child, readable
from tunneld.lab.host import Host

START = 10.0  # seconds
ANSWER = 30.0  # seconds: every job is over long before


class MeasureError(Exception):
    """A measurement failed, so the run has. `str()` says which and why."""


class End:
    """One measuring end. It has one job at a time."""

    def __init__(self, child: Child, sock: socket.socket) -> None:
        self._child = child
        self._socket = sock
        self._read = b""

    @classmethod
    async def start(cls, host: Host, name: str) -> End:
        """Start one in `host`, with which it ends. Raises OSError, MeasureError."""
        path = host.run_dir / f"{name}.bench"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            listener.bind(str(path))
            listener.listen(1)
            child = host.spawn([sys.executable, "-m", "tunneld.lab.bench.ends", str(path)], name=name)
            try:
                async with asyncio.timeout(START):
                    await readable(listener.fileno())
            except TimeoutError:
                raise MeasureError(f"{name} did not start; its log:\n{child.output()}") from None
            sock, _ = listener.accept()
        sock.setblocking(False)
        return cls(child, host.resources.enter_context(sock))

    async def ask(self, job: str, **request: Any) -> Answer:
        """Give it a job; its first answer. Raises MeasureError."""
        await self.tell(job=job, **request)
        return await self.answer()

    async def tell(self, **words: Any) -> None:
        """A word to an end that is at work."""
        with contextlib.suppress(ConnectionError):  # whoever waits for its answer learns that it has ended
            await asyncio.get_running_loop().sock_sendall(self._socket, json.dumps(words).encode() + b"\n")

    async def answer(self) -> Answer:
        """The next answer to the job that it has. Raises MeasureError."""
        try:
            async with asyncio.timeout(ANSWER):
                line = await self._line()
        except TimeoutError:
            raise MeasureError(f"no answer within {ANSWER:.0f} s") from None
        except ConnectionError:
            raise MeasureError(f"the measuring process ended; its log:\n{self._child.output()}") from None
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise MeasureError(answer["error"])
        return answer

    async def _line(self) -> bytes:
        while b"\n" not in self._read:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            if not data:
                raise ConnectionResetError
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line
