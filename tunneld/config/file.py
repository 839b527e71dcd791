"""Find a configuration file and read it, refusing what somebody else could have changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tunneld.config.document import Faults
from tunneld.proto.errors import ConfigErrors

DIRECTORY = Path("/etc/tunneld")
LARGEST = 1 << 20


def resolve(name_or_file: str) -> Path:
    """The file of a tunnel: anything with a slash or ending in .toml is a path, a NAME is /etc/tunneld/NAME.toml."""
    if "/" in name_or_file or name_or_file.endswith(".toml"):
        return Path(name_or_file)
    return DIRECTORY / f"{name_or_file}.toml"


def read(path: Path, faults: Faults) -> str:
    """The text of `path`; raises ConfigErrors when it has none. Faults of its permissions are added to `faults`."""
    content = _content(path, faults)
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigErrors(
            [*faults.errors, faults.error(line, "", f"byte 0x{byte:02x} at line {line}; save as UTF-8")]
        ) from None


def _content(path: Path, faults: Faults) -> bytes:
    try:
        with open(path, "rb", opener=_open) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigErrors([faults.error(0, "", "is not a regular file; give a file")])
            _check_writers(path, status, faults)
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise ConfigErrors([faults.error(0, "", _why(path, error))]) from None
    if len(content) > LARGEST:
        raise ConfigErrors([faults.error(0, "", f"larger than {LARGEST:,} bytes; is this the configuration?")])
    return content


def _open(path: str, flags: int) -> int:
    # To open a pipe would otherwise wait for its writer.
    return os.open(path, flags | os.O_NONBLOCK)


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        elsewhere = f", or give a file elsewhere as a path: ./{path.name}" if path.parent == DIRECTORY else ""
        return f"not found; create it{elsewhere or ' or give another file'}"
    if isinstance(error, IsADirectoryError):
        return "is a directory; give a file"
    if isinstance(error, PermissionError):
        return f"permission denied (uid {os.geteuid()}); chown it to that user or chmod 0644"
    return f"cannot be read ({os.strerror(error.errno or 0)}); give another file"


def _check_writers(path: Path, status: os.stat_result, faults: Faults) -> None:
    """Who can write the file commands the daemon. Its owner may: that root runs a user's file is root's choice."""
    if writers := _writers(status):
        faults.add(0, "", f"writable by {writers}, who could change what runs; chmod go-w {path}")
    for directory in dict.fromkeys((path.absolute().parent, path.resolve().parent)):
        status = directory.stat()
        # In a sticky directory, such as /tmp, nobody can replace the file of another.
        if (writers := _writers(status)) and not status.st_mode & stat.S_ISVTX:
            faults.add(0, "", f"its directory is writable by {writers}, who could replace it; chmod go-w {directory}")


def _writers(status: os.stat_result) -> str:
    named = {stat.S_IWGRP: "group", stat.S_IWOTH: "others"}
    return " and ".join(name for bit, name in named.items() if status.st_mode & bit)
