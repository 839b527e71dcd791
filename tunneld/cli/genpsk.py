"""`tunneld genpsk`: a new preshared key on standard output, as `wg genpsk` prints it."""

from __future__ import annotations

import argparse
import os

from tunneld.cli.genkey import hand_out


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "genpsk",
        help="make a preshared key",
        description="Print a new preshared key, which both ends need: (umask 077; tunneld genpsk >FILE)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld.keys import KEY_BYTES, PresharedKey

    return hand_out(PresharedKey(bytearray(os.urandom(KEY_BYTES))))
