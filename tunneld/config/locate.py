"""Give the faults that only the kernel could show the lines of the file that they concern."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunneld.config import fields, file
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
    path: KeyPath = (*_SECTIONS.get(error.key, ("interface",)), error.key)
    if error.key == "allowed_ips":
        # Of several peers it is the one whose prefix the message names.
        words = {word.strip(",;") for word in error.message.split()}
        path = next((place for place, prefix in _allowed_ips(document) if prefix in words), path)
    return document.faults.error(document.line_of(path), error.key, error.message)


def _allowed_ips(document: Document) -> Iterator[tuple[KeyPath, str]]:
    peers = document.values.get("peer")
    for index, peer in enumerate(peers if isinstance(peers, list) else ()):
        prefixes = peer.get("allowed_ips") if isinstance(peer, dict) else None
        for position, written in enumerate(prefixes if isinstance(prefixes, list) else ()):
            try:
                yield ("peer", index, "allowed_ips", position), str(fields.prefix(written))
            except fields.Fault:
                continue  # the file has changed since it was without faults
