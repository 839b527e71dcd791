"""`tunneld pubkey`: the public key of the private key on standard input, as `wg pubkey` prints it."""

from __future__ import annotations

import argparse
import sys

from tunneld.cli.genkey import put

STDIN = 0


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "pubkey",
        help="print the public key of a private key",
        description="Read a private key from standard input and print its public key: tunneld pubkey <FILE",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld.keys import LARGEST_TEXT, BadKey, PrivateKey, decode, read_all, wipe

    content = bytearray(LARGEST_TEXT + 1)
    try:
        if (count := read_all(STDIN, content)) > LARGEST_TEXT:
            raise BadKey(f"longer than {LARGEST_TEXT:,} bytes")
        with memoryview(content) as view, view[:count] as text:
            private = PrivateKey(decode(text))
    except (BadKey, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"tunneld: standard input: {why}; give a private key: tunneld pubkey <FILE", file=sys.stderr)
        return 1
    finally:
        wipe(content)
    try:
        return put(str(private.public_key()).encode())
    finally:
        private.clear()
