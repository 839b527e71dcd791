"""`python -m tunneld.lab.clocked FILE`: `tunneld run FILE` by a clock that each SIGUSR1 moves on by two minutes.

What the protocol does after minutes is seen within seconds so, on a real daemon. With `--wall FILE` its wall clock is
off by as many seconds as FILE says, which may change. The daemon itself has no such switches: here the one place
where it reads the clocks is replaced before it starts.
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
    parser.add_argument("--wall", type=Path, metavar="FILE", help="by how many seconds the wall clock is off")
    args = parser.parse_args()
    moved = Moved(clock.now)
    signal.signal(signal.SIGUSR1, lambda number, frame: moved.move())
    vars(clock)["now"] = moved.now
    if args.wall is not None:
        vars(clock)["wall"] = off_by(args.wall, clock.wall)
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


def off_by(file: Path, read: Callable[[], float]) -> Callable[[], float]:
    """The clock `read`, off by the seconds that `file` says at the time. Replace the file, do not write to it."""
    return lambda: read() + float(file.read_text())


if __name__ == "__main__":
    sys.exit(main())
