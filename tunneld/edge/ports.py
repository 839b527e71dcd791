"""Why a port cannot be had, and who has it: read from /proc, so only when it is asked for."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from tunneld.config import Endpoint


def refusal(error: OSError, transport: str, listen: Endpoint) -> str:
    """One line: what `error` means for somebody who wanted to listen there, and what to do."""
    what = f"{transport} {listen}"
    match error.errno:
        case errno.EADDRINUSE:
            who = holder(transport, listen.port) or "another process"
            return f"cannot listen on {what}: already used by {who}; stop it or choose another port"
        case errno.EADDRNOTAVAIL:
            return f"cannot listen on {what}: {listen.host} is not an address of this host"
        case errno.EACCES:
            return f"cannot listen on {what}: needs CAP_NET_BIND_SERVICE; use a port of 1024 or more"
        case _:
            return f"cannot listen on {what}: {error.strerror}"


def holder(transport: str, port: int) -> str:
    """The process that has `port` open, as "pid 812 (nc)"; "" when this user may not see it.

    `transport` is "tcp" or "udp".
    """
    inodes = {f"socket:[{inode}]" for table in (transport, f"{transport}6") for inode in _inodes(table, port)}
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if any(_target(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:
        return ""  # closed meanwhile; the others still count


def _inodes(table: str, port: int) -> list[str]:
    """The socket inodes with this local port that listen (TCP) or are bound (UDP)."""
    listening = {"0A"} if table.startswith("tcp") else {"07"}
    try:
        lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] in listening]
