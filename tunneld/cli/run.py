"""`tunneld run`: the daemon itself, in the foreground."""

from __future__ import annotations

import argparse
import logging


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("run", help="run a tunnel in the foreground", description=__doc__)
    parser.add_argument("tunnel", metavar="NAME|FILE", help="/etc/tunneld/NAME.toml, or a path")
    add_loop(parser)
    parser.set_defaults(run=run)


def add_loop(parser: argparse.ArgumentParser) -> None:
    """The flag that chooses the event loop."""
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    from tunneld.config import load, resolve
    from tunneld.edge import process

    process.hide_memory()  # before a key is read
    # First the configuration: its mistakes should not wait for the daemon's imports.
    config = load(resolve(args.tunnel))
    from tunneld import daemon, log

    log.setup(logging.INFO)
    for warning in config.warnings:
        logging.getLogger("tunneld").warning("%s", warning)
    return daemon.run(config, loop=args.loop)
