"""The key files that a configuration names, as fields: their faults become faults of the line that names them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tunneld.config.fields import Fault, text
from tunneld.keys import PresharedKey, PrivateKey, load_preshared_key, load_private_key
from tunneld.proto.errors import ConfigError

K = TypeVar("K")

# Near enough to a key that it may be one, in full or damaged. No path of a file looks so.
_KEY = re.compile(r"\s*[A-Za-z0-9+/]{32,}=+\s*")


def private_key(directory: Path | None) -> Callable[[object], PrivateKey | None]:
    """A field that names the file of the private key, from `directory`; without one nothing is read."""

    def parse(value: object) -> PrivateKey | None:
        name = _file(value)
        return None if directory is None else _read(lambda: load_private_key(name, directory))

    return parse


def preshared_key(directory: Path | None, private: PrivateKey | None) -> Callable[[object], PresharedKey | None]:
    """The same for a preshared key, which must not be the private key, if that is known."""

    def parse(value: object) -> PresharedKey | None:
        name = _file(value)
        return None if directory is None else _read(lambda: load_preshared_key(name, directory, private))

    return parse


def _file(value: object) -> str:
    name = text(value)
    if _KEY.fullmatch(name):
        # Not shown: faults end in logs.
        raise Fault("this is a key itself; put it in a file of mode 0600, and write the name of that file here")
    return name


def _read(load: Callable[[], K]) -> K:
    try:
        return load()
    except ConfigError as error:
        raise Fault(f"{error.file}: {error.message}") from None
