"""A stranger that sends as fast as it is told: a process of its own, so that it shares no interpreter with a daemon.

python flood.py FILE LENGTH RATE SOURCE TARGET PORT: the messages of FILE, of LENGTH bytes each, again and again, RATE
a second, from the address SOURCE to TARGET PORT. A line says that it begins; after SIGTERM another one tells how many
were sent, in how many seconds, and how many bytes came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tunneld.lab.child import Child
from tunneld.lab.host import Host

BEGINS = "flooding"
PACE = 0.001  # seconds between two bursts
MOST_LATE = 0.01  # seconds; whoever was late for longer does not catch up, which would be another kind of flood


@dataclass
class Flood:
    """`messages`, all of one length, from `source` in `host` to `target`, while the context lasts."""

    host: Host
    source: str
    target: tuple[str, int]
    messages: list[bytes]
    rate: int = 10_000

    def __post_init__(self) -> None:
        self.sent = 0
        self.seconds = 0.0
        self.returned = 0

    async def __aenter__(self) -> Flood:
        file = self.host.run_dir / "flood"
        file.write_bytes(b"".join(self.messages))
        words = (file, len(self.messages[0]), self.rate, self.source, *self.target)
        (self.host.run_dir / "flooding.log").unlink(missing_ok=True)
        self._child: Child = self.host.spawn([sys.executable, __file__, *map(str, words)], name="flooding")
        async with asyncio.timeout(10.0):
            while not self._child.output().startswith(BEGINS):  # noqa: ASYNC110 (a file tells nobody that it grows)
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert await self._child.stop() == 0, self._child.output()
        _, sent, seconds, returned = self._child.output().split()
        self.sent, self.seconds, self.returned = int(sent), float(seconds), int(returned)


def flood(file: str, length: str, rate: str, source: str, target: str, port: str) -> None:
    data = Path(file).read_bytes()
    messages = [data[at : at + int(length)] for at in range(0, len(data), int(length))]
    stop = False

    def end(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, end)
    print(BEGINS, flush=True)
    sent = returned = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.setblocking(False)
        began = due = time.monotonic()
        while not stop:
            now = time.monotonic()
            due = max(due, now - MOST_LATE)
            burst = int((now - due) * int(rate))
            due += burst / int(rate)
            for _ in range(burst):
                with contextlib.suppress(OSError):  # no room, or ICMP says that nobody listens there
                    sock.sendto(messages[sent % len(messages)], (target, int(port)))
                sent += 1
            with contextlib.suppress(OSError):
                while True:
                    returned += len(sock.recv(2048))
            time.sleep(PACE)
        seconds = time.monotonic() - began
    print(sent, seconds, returned)


if __name__ == "__main__":
    flood(*sys.argv[1:])
