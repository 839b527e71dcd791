"""`tunneld genkey`: a new private key on standard output, as `wg genkey` prints it."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunneld.keys import Secret

STDOUT = 1


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "genkey",
        help="make a private key",
        description="Print a new private key, for a file that is yours alone: (umask 077; tunneld genkey >FILE)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld.keys import KEY_BYTES, PrivateKey

    return hand_out(PrivateKey(bytearray(os.urandom(KEY_BYTES))))


def hand_out(key: Secret) -> int:
    """Print a new secret, once and to nowhere else, and clear it. Returns the exit code."""
    from tunneld.keys import encode

    warn_of_readers()
    try:
        return put(encode(key.raw))
    finally:
        key.clear()


def warn_of_readers() -> None:
    """One line when standard output is a file that others can use."""
    mode = os.fstat(STDOUT).st_mode
    if stat.S_ISREG(mode) and mode & 0o077:
        print(
            f"tunneld: warning: the key goes to a file of mode {stat.S_IMODE(mode):04o}, which others can use; "
            "chmod 600 it, and set umask 077 beforehand the next time",
            file=sys.stderr,
        )


def put(text: bytes | bytearray, what: str = "key") -> int:
    """Write a line to standard output. Returns the exit code: half a key in a file must not pass for a success."""
    try:
        with open(STDOUT, "wb", closefd=False) as stream:
            stream.write(text)
            stream.write(b"\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"{error.strerror}; what is there is no {what}, try again elsewhere"
        print(f"tunneld: standard output: {why}", file=sys.stderr)
        return 1
    return 0
