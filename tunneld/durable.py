"""Small files that are there whole or not at all, whatever ends the process or the machine in between."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace(path: Path, content: bytes | bytearray, mode: int = 0o600) -> None:
    """Put a file with `content` at `path`, in place of what is there, and return when the disk has it.

    Raises OSError; what was at `path` is there still, and nothing else. Two processes must not do this to one path
    at once.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # a killed process has left it
    create(fresh, content, mode)
    try:
        fresh.rename(path)
    except OSError:
        _remove(fresh)
        raise
    sync_directory(path.parent)


def create(path: Path, content: bytes | bytearray, mode: int = 0o600) -> None:
    """Make a file with `content` at `path`, where nothing may be yet, and return when the disk has its content.

    Raises FileExistsError, or another OSError; no part of the content is left then.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb", buffering=0) as file, memoryview(content) as left:
            written = 0
            while written < len(left):
                written += file.write(left[written:])
            os.fsync(descriptor)
    except OSError:
        _remove(path)
        raise


def sync_directory(path: Path) -> None:
    """Return when the disk has the names of `path`. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the first error says more
        path.unlink()
