"""Logging: lines that journald grades, text of strangers escaped, floods held back."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TextIO

from tunneld.text import printable

PER_SECOND = 10  # lines of one kind: enough to see what happens, too few to fill a disk
LINE_MAX = 2_000  # characters

# sd-daemon(3); journald takes the number in front of each line as its priority.
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def setup(level: int, stream: TextIO | None = None, journal: bool | None = None) -> None:
    """Send the log to `stream` (standard error), from `level` upwards; a second call replaces the first.

    `journal`: lines for journald, or for people; None asks $JOURNAL_STREAM whether `stream` leads to journald.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalFormatter() if _is_journal(stream, journal) else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _Formatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # asyncio logs a line for each write to a peer that is gone: thousands a second.
    logging.getLogger("asyncio").filters[:] = [_Flood()]


class _Formatter(logging.Formatter):
    def lines(self, record: logging.LogRecord) -> list[str]:
        """The message as one line, then those of the traceback."""
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        if record.stack_info:
            trace += record.stack_info.splitlines()
        return [printable(line, LINE_MAX) for line in (record.getMessage(), *trace)]


class TextFormatter(_Formatter):
    """`HH:MM:SS warning message`; each further line of a traceback begins with four blanks."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {record.levelname.lower():<7} " + "\n    ".join(self.lines(record))


class JournalFormatter(_Formatter):
    """`<4>message`; each line of a traceback has the prefix too, else journald would grade it as ordinary output."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in self.lines(record))


class Limiter:
    """Lets `per_second` lines of each kind through in a second and counts the rest.

    Kinds are few and named by us: never a peer's text, or it would choose how much we remember.
    """

    def __init__(self, per_second: int = PER_SECOND) -> None:
        self._per_second = per_second
        self._windows: dict[str, _Window] = {}

    def admit(self, kind: str, now: float) -> int | None:
        """None: withhold this line. Else write it, and say how many were withheld before it. `now` in seconds."""
        window = self._windows.get(kind)
        if window is None or not 0 <= now - window.start < 1:
            withheld = window.withheld if window else 0
            self._windows[kind] = _Window(now)
            return withheld
        if window.admitted >= self._per_second:
            window.withheld += 1
            return None
        window.admitted += 1
        return 0

    def settle(self, now: float) -> dict[str, int]:
        """How many lines of each kind were withheld in seconds that are over; they are forgotten with it."""
        over = [kind for kind, window in self._windows.items() if not 0 <= now - window.start < 1]
        counts = {kind: self._windows.pop(kind).withheld for kind in over}
        return {kind: count for kind, count in counts.items() if count}


class _Window:
    __slots__ = ("admitted", "start", "withheld")

    def __init__(self, start: float) -> None:
        self.start = start
        self.admitted = 1
        self.withheld = 0


class Limited:
    """A logger for what strangers can cause: at most `per_second` lines of a kind, then "and N more"."""

    def __init__(self, log: logging.Logger, per_second: int = PER_SECOND) -> None:
        self._log = log
        self._limiter = Limiter(per_second)

    def log(self, level: int, now: float, kind: str, message: str, *args: object) -> bool:
        """Log `message % args` unless too many of this `kind` came in this second; whether it was logged."""
        withheld = self._limiter.admit(kind, now)
        if withheld is None:
            return False
        if withheld:
            self._log.log(level, "%s: and %d more", kind, withheld)
        self._log.log(level, message, *args)
        return True

    def warning(self, now: float, kind: str, message: str, *args: object) -> None:
        """`log` at WARNING."""
        self.log(logging.WARNING, now, kind, message, *args)

    def settle(self, now: float) -> bool:
        """Tell what was withheld of kinds that have gone quiet, and whether that was anything.

        Call it every few seconds.
        """
        counts = self._limiter.settle(now)
        for kind, count in counts.items():
            self._log.warning("%s: and %d more", kind, count)
        return bool(counts)


class _Flood(logging.Filter):
    """The same for a logger that is not ours; the count goes on the next line that passes."""

    def __init__(self) -> None:
        super().__init__()
        self._limiter = Limiter()

    def filter(self, record: logging.LogRecord) -> bool:
        withheld = self._limiter.admit(record.name, record.created)
        if withheld:
            record.msg, record.args = f"{record.getMessage()} (and {withheld} more before)", ()
        return withheld is not None


def _is_journal(stream: TextIO, journal: bool | None) -> bool:
    if journal is not None:
        return journal
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a descriptor
        return False
    # systemd.exec(5): the variable is inherited, so it counts only if it names this very stream.
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
