"""Disks that are small, full or read-only. The test process has a mount namespace of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MS_RDONLY, MS_REMOUNT = 1, 32
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def small_disk(path: Path, kibibytes: int = 64) -> Iterator[Path]:
    """An empty tmpfs at `path`, which is made for it."""
    path.mkdir()
    _mount("tmpfs", path, 0, f"size={kibibytes}k,mode=0700")
    try:
        yield path
    finally:
        assert _libc.umount2(os.fsencode(path), MNT_DETACH) == 0


def fill(disk: Path) -> None:
    """Take all the space that is left on a small disk."""
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize))


def make_read_only(disk: Path) -> None:
    _mount("tmpfs", disk, MS_REMOUNT | MS_RDONLY, "")


def _mount(source: str, target: Path, flags: int, options: str) -> None:
    words = (source.encode(), os.fsencode(target), b"tmpfs", ctypes.c_ulong(flags), options.encode())
    if _libc.mount(*words) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")
