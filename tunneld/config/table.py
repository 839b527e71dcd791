"""One section of the file: keys are taken out one by one, and what is left over is a mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from tunneld.config.document import Document, KeyPath
from tunneld.config.fields import Fault
from tunneld.text import nearest, quoted

T = TypeVar("T")


class Table:
    """The values of a section that stands at `path`. Every fault goes to the document; nothing is raised."""

    def __init__(self, document: Document, path: KeyPath, values: Mapping[str, object]) -> None:
        self._document = document
        self._path = path
        self._given = frozenset(values)
        self._left = dict(values)
        self._known: list[str] = []

    def take(self, key: str, parse: Callable[[object], T], default: T) -> T:
        """The value of `key` as `parse` gives it; `default` when it is absent or faulty."""
        self._known.append(key)
        if key not in self._left:
            return default
        try:
            return parse(self._left.pop(key))
        except Fault as fault:
            self._document.fault((*self._path, key), str(fault))
            return default

    def take_list(self, key: str, parse: Callable[[object], T], *, single: bool = False) -> tuple[T, ...]:
        """The good elements of the list `key`, none when it is absent; with `single` a lone value will do as well."""
        self._known.append(key)
        value = self._left.pop(key, [])
        if not isinstance(value, list) and not single:
            written = quoted(value) if isinstance(value, str) else "…"
            self._document.fault((*self._path, key), f"expected a list; write {key} = [{written}]")
            return ()
        found = []
        for index, element in enumerate(value if isinstance(value, list) else [value]):
            try:
                found.append(parse(element))
            except Fault as fault:
                self._document.fault((*self._path, key, index), str(fault))
        return tuple(found)

    def given(self, key: str) -> bool:
        """Whether the section has `key`."""
        return key in self._given

    def close(self, refused: Mapping[str, str], elsewhere: Mapping[str, str]) -> None:
        """Report what nobody took; a key that was misspelt counts as faulty.

        A key of `refused` gets the message there. `elsewhere` names the section of keys that do exist.
        """
        for key in self._left:
            if key in refused:
                self._document.fault((*self._path, key), refused[key])
                continue
            near = nearest(key, [*self._known, *refused])
            if near:
                self._document.excuse((*self._path, near))
                hint = f"did you mean {quoted(near)}?"
            elif key in elsewhere:
                hint = f"it belongs below {elsewhere[key]}"
            elif other := nearest(key, elsewhere):
                hint = f"did you mean {quoted(other)} below {elsewhere[other]}?"
            else:
                hint = "remove it, or see tunneld.toml(5)"
            self._document.fault((*self._path, key), f"unknown key; {hint}", key=quoted(key))

    def require(self, key: str, message: str) -> None:
        """Report with `message` that `key` is missing, unless it is only misspelt. After `close`."""
        if key not in self._given and not self._document.faulty(*self._path, key):
            self._document.fault(self._path, message, key=key)
            self._document.excuse((*self._path, key))
