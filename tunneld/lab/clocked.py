"""`python -m tunneld.lab.clocked FILE`: `tunneld run FILE` by a clock that each SIGUSR1 moves on by two minutes.

What the protocol does after minutes is seen within seconds so, on a real daemon. The daemon itself has no such
switch: here the one place where it reads the clock is replaced before it starts.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tunneld import daemon
from tunneld.config import load
from tunneld.edge import clock
from tunneld.proto.const import REKEY_AFTER_TIME

STEP = REKEY_AFTER_TIME


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    args = parser.parse_args()
    moved = Moved(clock.now)
    signal.signal(signal.SIGUSR1, lambda number, frame: moved.move())
    vars(clock)["now"] = moved.now
    return daemon.run(load(args.file), loop=args.loop)


class Moved:
    """The clock `read`, moved on."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._ahead = 0.0

    def now(self) -> float:
        return self._read() + self._ahead

    def move(self) -> None:
        self._ahead += STEP


if __name__ == "__main__":
    sys.exit(main())
