"""How the demo looks: one line per step, rewritten while it goes on a terminal, written once in a pipe."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from tunneld.edge import clock

FRAME = 0.05  # seconds between two live lines of a step: more is not seen, and costs on a slow terminal
LABEL = 12  # columns for the name of a step
INDENT = 4 + LABEL  # columns in front of what a step has to say

_STYLES = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "alarm": "33"}
_PLAIN_MARKS = {"✓": "ok", "✗": "FAILED", "…": "..", "○": "--"}
_PLAIN_LINES = str.maketrans("─│┌┐└┘├┤═█░", "-|++++++=#.") | str.maketrans({"→": "->", "←": "<-", "…": "..."})


class Screen:
    """`live` rewrites the line of the step that runs; without `unicode` everything is ASCII."""

    def __init__(self, stream: TextIO, *, live: bool, colour: bool, unicode: bool) -> None:
        self.passed = 0
        self.live = live
        self._stream = stream
        self._colour = colour
        self._unicode = unicode

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Screen:
        """What suits the stream: colours and live lines only on a terminal, colours not with NO_COLOR."""
        terminal = stream.isatty() and environ.get("TERM", "dumb") != "dumb"
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        return cls(stream, live=terminal, colour=terminal and not environ.get("NO_COLOR"), unicode=unicode)

    @property
    def columns(self) -> int:
        """How wide a line may be; 80 in a pipe."""
        return shutil.get_terminal_size().columns

    def say(self, text: str = "", style: str = "") -> None:
        """A line."""
        self._write(self._styled(self._fit(text), style) + "\n")

    def heading(self, text: str) -> None:
        self.say()
        self.say(text, "bold")

    def detail(self, text: str, style: str = "") -> None:
        """A line below a step."""
        self.say(" " * 8 + text, style)

    def step(self, name: str) -> Step:
        """A step that begins now; a context manager."""
        return Step(self, name)

    def skip(self, name: str, why: str) -> None:
        """A step that is not taken, and what it needs."""
        self.show("○", name, why, "dim")

    def show(self, mark: str, name: str, text: str, style: str) -> None:
        """The line of a step, instead of its live line. A long one goes on below itself."""
        shown = mark if self._unicode else _PLAIN_MARKS[mark]
        gap = " " * max(1, LABEL - len(name))
        rows = textwrap.wrap(
            self._fit(text), max(self.columns - INDENT, LABEL), break_long_words=False, break_on_hyphens=False
        )
        body = f"\n{' ' * INDENT}".join(rows)
        self._write(f"{self._erase()}  {self._styled(shown, style)} {self._styled(name, 'bold')}{gap}{body}\n")

    def show_live(self, name: str, text: str) -> None:
        """The line of a step that goes on. It must not wrap, or it could not be rewritten."""
        if self.live:
            line = f"  {'…' if self._unicode else '..'} {name:<{LABEL}}{self._fit(text)}"
            self._write(self._erase() + line[: self.columns - 1])

    def clear(self) -> None:
        """Take the live line away."""
        self._write(self._erase())

    def _erase(self) -> str:
        return "\r\x1b[K" if self.live else ""

    def _fit(self, text: str) -> str:
        return text if self._unicode else text.translate(_PLAIN_LINES).encode("ascii", "replace").decode()

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour and style else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Step:
    """One step: `progress` while it goes on, `result` before it ends. An exception that leaves it is its failure."""

    def __init__(self, screen: Screen, name: str) -> None:
        self.result = ""
        self._screen = screen
        self._name = name
        self._began = clock.now()
        self._shown = -FRAME

    def __enter__(self) -> Step:
        self._screen.show_live(self._name, "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._screen.passed += 1
            self._screen.show("✓", self._name, self.result, "good")
        elif isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            self._screen.clear()
        else:
            self._screen.show("✗", self._name, str(error).partition("\n")[0] or self._silent(error), "bad")

    def progress(self, text: str) -> None:
        """What is to be seen right now, unless another line was shown within a FRAME."""
        now = clock.now()
        if now - self._shown >= FRAME:
            self._shown = now
            self._screen.show_live(self._name, text)

    def _silent(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"waited {clock.now() - self._began:.0f} s in vain"
        return type(error).__name__


def bar(share: float, width: int = 24) -> str:
    """A progress bar; `share` is 0..1."""
    filled = round(share * width)
    return "█" * filled + "░" * (width - filled)
