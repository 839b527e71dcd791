"""RUN_DIR/NAME.undo: the way back, on disk before the first change, for when the process cannot go it itself."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunneld.netcfg.operation import Operation, from_json, to_json

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """`undo` in the order in which it is to be executed; `links` are the indexes of the links it was written for."""

    interface: str
    netns: str | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    undo: tuple[Operation, ...] = ()


class Journal:
    """The journal of the tunnel `name` in `directory`, which exists."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.undo"

    def write(self, record: Record) -> None:
        """Replace the journal, durably. A full disk is one warning: the tunnel is worth more than its journal."""
        text = json.dumps(
            {
                "version": VERSION,
                "interface": record.interface,
                "netns": record.netns,
                "links": dict(record.links),
                "undo": [to_json(operation) for operation in record.undo],
            },
            indent=1,
        )
        try:
            self._replace(text.encode())
        except OSError as error:
            self.remove()  # an older one would take back the wrong things
            log.warning(
                "cannot write %s (%s): after a kill -9, what is left must be removed by hand",
                self.path,
                error.strerror,
            )

    def read(self) -> Record | None:
        """None when there is none, or none that can be understood (which is warned about)."""
        try:
            found = json.loads(self.path.read_bytes())
            if found["version"] != VERSION:
                raise ValueError(f"version {found['version']}")
            undo = tuple(from_json(operation) for operation in found["undo"])
            return Record(found["interface"], found["netns"], found["links"], undo)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used (%s): only what carries our tags is swept", self.path, error)
            return None

    def remove(self) -> None:
        """Forget it; no error when there is none, or none can be removed."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _replace(self, content: bytes) -> None:
        fresh = self.path.with_suffix(".undo.new")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
