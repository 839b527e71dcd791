"""One daemon per name: a lock that the kernel releases when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class AlreadyRunsError(Exception):
    """Another daemon holds the name. `str()` is one line."""


@contextmanager
def hold(run_dir: Path, name: str) -> Iterator[None]:
    """Hold the lock of the instance `name` while the body runs. Raises AlreadyRunsError, or OSError.

    The file stays when the lock is released: removing it would let two daemons hold two files of one name.
    """
    path = run_dir / f"{name}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise AlreadyRunsError(f"{name} runs already (pid {pid}); stop it first: tunneld down {name}") from None
        os.ftruncate(fd, 0)
        with suppress(OSError):  # a full disk: the lock holds without its number
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def is_held(run_dir: Path, name: str) -> bool:
    """Whether a daemon of this name runs."""
    try:
        fd = os.open(run_dir / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
