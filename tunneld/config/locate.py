"""Give the faults that only the kernel could show the lines of the file that they concern."""

from __future__ import annotations

from pathlib import Path

from tunneld.config import file
from tunneld.config.document import Document, Faults, KeyPath
from tunneld.proto.errors import ConfigError, ConfigErrors

_SECTIONS: dict[str, KeyPath] = {
    "listen": ("tunnel",),
    "routes": ("network",),
    "allowed_ips": ("peer", 0),
}


def locate(path: Path, faults: ConfigErrors) -> ConfigErrors:
    """The same faults with the lines of their keys in `path`; as they are when it cannot be read any more."""
    try:
        document = Document(file.read(path, Faults(path)), Faults(path))
    except ConfigErrors:
        return faults
    return ConfigErrors([_located(document, error) for error in faults.errors])


def _located(document: Document, error: ConfigError) -> ConfigError:
    line = document.line_of((*_SECTIONS.get(error.key, ("interface",)), error.key))
    return document.faults.error(line, error.key, error.message)
