"""The bench's side of a measuring end: start it in a host, ask it, take its answers."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

from tunneld.lab.bench.ends import Answer
from tunneld.lab.child import Child, readable
from tunneld.lab.host import Host

START = 10.0  # seconds
ANSWER = 30.0  # seconds: every job is over long before
LONGEST = 1 << 20  # bytes of an answer: the times of some ten thousand echoes


class MeasureError(Exception):
    """A measurement failed, so the run has. `str()` says which and why."""


class End:
    """One measuring end. It has one job at a time."""

    def __init__(self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer

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
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LONGEST)
        host.resources.callback(writer.close)
        return cls(child, reader, writer)

    async def ask(self, job: str, **request: Any) -> Answer:
        """Give it a job; its first answer. Raises MeasureError."""
        self.tell(job=job, **request)
        return await self.answer()

    def tell(self, **words: Any) -> None:
        """A word to an end that is at work."""
        self._writer.write(json.dumps(words).encode() + b"\n")

    async def answer(self) -> Answer:
        """The next answer to the job that it has. Raises MeasureError."""
        try:
            async with asyncio.timeout(ANSWER):
                line = await self._reader.readline()
        except TimeoutError:
            raise MeasureError(f"no answer within {ANSWER:.0f} s") from None
        except ConnectionError:
            line = b""
        if not line:
            raise MeasureError(f"the measuring process ended; its log:\n{self._child.output()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise MeasureError(answer["error"])
        return answer
