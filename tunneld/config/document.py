"""A parsed configuration file that knows on which line each value stands, and collects what is wrong with it.

tomllib tells no lines. So the text is cut into statements, each the fewest lines that tomllib takes on their own,
and a value stands where the statement does that sets it.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tunneld.proto.errors import ConfigError, ConfigErrors
from tunneld.text import printable

KeyPath = tuple[str | int, ...]

# Which mistake tomllib means, and what to do about it.
_REMEDIES = (
    ("invalid value", 'text needs quotes: key = "text"'),
    ("expected '='", "write key = value"),
    ("invalid initial character for a key", "write key = value"),
    ("unclosed array", "close it with ]"),
    ("unterminated string", "close it with a quote"),
    (r"illegal character '\n'", "close the text with a quote on the same line"),
    ("illegal character", r"write it as an escape, such as \u001b"),
    ("expected newline", "put one key = value on a line"),
    ("expected ']'", "close the name of the section with ]"),
)
_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


class Faults:
    """The faults of one file so far."""

    def __init__(self, path: Path) -> None:
        self.file = printable(str(path), 4096)
        self.errors: list[ConfigError] = []

    def error(self, line: int, key: str, message: str) -> ConfigError:
        """The fault as an exception; `line` 0 when it concerns no line."""
        return ConfigError(self.file, line, printable(key), printable(message, 1000))

    def add(self, line: int, key: str, message: str) -> None:
        self.errors.append(self.error(line, key, message))

    def raise_any(self) -> None:
        """Raise ConfigErrors with what was collected, in the order of the file, if anything was."""
        if self.errors:
            raise ConfigErrors(sorted(self.errors, key=lambda error: error.line))


class Statement(NamedTuple):
    """A header or `key = value`: its first line, the path of what it opens or sets, and its text."""

    line: int
    path: KeyPath
    text: str


class Document:
    """The values of one file and their faults. Raises ConfigErrors when `text` is not TOML."""

    def __init__(self, text: str, faults: Faults) -> None:
        self.faults = faults
        self._text = text.replace("\r\n", "\n")
        self._faulty: set[KeyPath] = set()
        try:
            self.values: dict[str, object] = tomllib.loads(text)
        except RecursionError:
            raise ConfigErrors(
                [*faults.errors, faults.error(0, "", "nested too deeply; see tunneld.toml(5)")]
            ) from None
        except ValueError as error:
            raise ConfigErrors([*faults.errors, self._syntax_fault(str(error))]) from None

    def fault(self, path: KeyPath, message: str, key: str | None = None) -> None:
        """Add a fault at `path`; its key is the last name of the path unless `key` says otherwise."""
        self.excuse(path)
        named = next((part for part in reversed(path) if isinstance(part, str)), "")
        self.faults.add(self.line_of(path), named if key is None else key, message)

    def excuse(self, path: KeyPath) -> None:
        """Let `path` count as faulty, because a fault elsewhere is about it."""
        self._faulty.update(path[:end] for end in range(1, len(path) + 1))

    def faulty(self, *path: str | int) -> bool:
        """Whether `path`, or anything inside it, has a fault already."""
        return path in self._faulty

    def line_of(self, path: KeyPath) -> int:
        """The line of the value at `path`, or of the nearest thing around it that stands in the file; at least 1."""
        inside = next((one for one in self._statements if one.path[: len(path)] == path), None)
        holders = (one for one in self._statements if path[: len(one.path)] == one.path)
        holder = max(holders, key=lambda one: len(one.path), default=None)
        if holder is not None and holder.path == path[:-1] and isinstance(path[-1], int):
            return holder.line + _lines_before(holder.text, path[-1])
        found = inside or holder
        return found.line if found else 1

    @cached_property
    def _statements(self) -> list[Statement]:
        return list(_statements(self._text))

    def _syntax_fault(self, error: str) -> ConfigError:
        position = _POSITION.search(error)
        what = error[: position.start()] if position else error
        what = what[:1].lower() + what[1:]
        remedy = next((then for start, then in _REMEDIES if what.startswith(start)), "correct this line")
        if position is None or position["line"] is None or what.startswith("unclosed"):
            # Where tomllib gave up helps nobody: name the line on which the unfinished statement begins.
            return self.faults.error(self._unfinished(), "", f"{what}, from here on; {remedy}")
        line, column = int(position["line"]), int(position["column"])
        return self._twice(line) or self.faults.error(line, "", f"column {column}: {what}; {remedy}")

    def _twice(self, line: int) -> ConfigError | None:
        """The fault when the last statement up to `line` opens or sets what an earlier one did."""
        before = [one for one in self._statements if one.line <= line]
        second = before.pop() if before else Statement(1, (), "")
        first = next((one for one in before if _names(one.path) == _names(second.path)), None)
        if first is None:
            return None
        key = str(_names(second.path)[-1])
        if not second.text.lstrip().startswith("["):
            return self.faults.error(second.line, key, f"already set in line {first.line}; keep one of the two")
        how = "put its keys there" if first.path == second.path else "write both with the same brackets"
        return self.faults.error(second.line, f"[{key}]", f"already opened in line {first.line}; {how}")

    def _unfinished(self) -> int:
        last = self._statements[-1] if self._statements else Statement(1, (), "")
        lines = self._text.split("\n")
        start = last.line + last.text.count("\n") if last.text else 0
        return next((n + 1 for n in range(start, len(lines)) if not _idle(lines[n])), len(lines))


def _statements(text: str) -> Iterator[Statement]:
    """The statements of `text`, up to the first that does not end."""
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        if _idle(lines[start]):
            start += 1
            continue
        end, value = _statement_end(lines, start)
        if value is None:
            return
        chunk = "\n".join(lines[start:end])
        header = chunk.lstrip().startswith("[")
        path = _path(() if header else table, value, counts)
        if header and chunk.lstrip().startswith("[["):
            counts[path] = counts.get(path, 0) + 1
            path = (*path, counts[path] - 1)
        if header:
            table = path
        yield Statement(start + 1, path, chunk)
        start = end


def _idle(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _statement_end(lines: list[str], start: int) -> tuple[int, dict[str, object] | None]:
    """Where the statement that begins at `start` ends (exclusive), and its value; None when it does not end."""
    for end in range(start + 1, len(lines) + 1):
        # Only these can end a statement of several lines; to parse at every line would take quadratic time.
        if end == start + 1 or any(mark in lines[end - 1] for mark in ("]", "}", '"""', "'''")):
            try:
                return end, tomllib.loads("\n".join(lines[start:end]))
            except (ValueError, RecursionError):
                continue
    return len(lines), None


def _path(table: KeyPath, value: object, counts: dict[KeyPath, int]) -> KeyPath:
    """The path of the only thing that the statement with `value` sets or opens in `table`."""
    path = table
    while isinstance(value, dict) and len(value) == 1:
        if path in counts:
            path = (*path, counts[path] - 1)
        key, value = next(iter(value.items()))
        path = (*path, key)
    return path


def _lines_before(text: str, index: int) -> int:
    """How many lines of the statement `text`, which sets an array, end before its element `index` does."""
    lines = text.split("\n")

    def elements(count: int) -> int:
        try:
            value: object = tomllib.loads("\n".join([*lines[:count], "]"]))
        except (ValueError, RecursionError):
            return 0
        while isinstance(value, dict) and value:
            value = next(iter(value.values()))
        return len(value) if isinstance(value, list) else 0

    return bisect_left(range(1, len(lines)), index + 1, key=elements)


def _names(path: KeyPath) -> list[str]:
    return [part for part in path if isinstance(part, str)]
