"""`tunneld down`: stop a tunnel, and sweep what a kill -9 left of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.naming import NAME_RULE, is_name

if TYPE_CHECKING:
    from tunneld.netcfg.apply import Cleared
    from tunneld.netcfg.journal import Journal

STOP_SECONDS = 10.0
LOOK_SECONDS = 0.05


class DownError(Exception):
    """It cannot be stopped or swept. `str()` is one line."""


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "down",
        help="stop a tunnel, or sweep what a killed one left",
        description="Stop a tunnel, and undo what it changed if it was killed and could not do so itself.",
    )
    parser.add_argument(
        "name", metavar="NAME", type=tunnel_name, help="the tunnel: the name of its file without .toml"
    )
    parser.add_argument(
        "--stopped",
        action="store_true",
        help="for ExecStopPost= of systemd: only sweep, and leave a running instance alone",
    )
    parser.set_defaults(run=run)


def tunnel_name(text: str) -> str:
    """An argument NAME; a path to the file does as well. Raises ArgumentTypeError for what no tunnel is called."""
    name = text.removesuffix(".toml").rpartition("/")[2]
    if not is_name(name):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a tunnel; use {NAME_RULE}")
    return name


def run(args: argparse.Namespace) -> int:
    import logging

    from tunneld import instance, log
    from tunneld.control import run_dir
    from tunneld.netcfg.model import KernelError

    log.setup(logging.WARNING)
    directory, name = run_dir(), args.name
    try:
        running = directory.is_dir() and instance.is_held(directory, name)
        if running and args.stopped:
            print(f"{name} runs: left alone")
            return 0
        if running:
            _stop(directory, name)
            print(f"{name}: stopped")
        return _sweep(directory, name, quiet=running)
    except (DownError, KernelError) as error:
        print(f"tunneld: {name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"tunneld: {name}: {error.filename or directory}: {error.strerror}; run as root", file=sys.stderr)
    return 1


def _stop(directory: Path, name: str) -> None:
    """Ask the daemon to stop and wait until its lock is free. Raises DownError."""
    import time

    from tunneld import instance
    from tunneld.control import ControlError, NotRunning, request
    from tunneld.edge import clock

    deadline = clock.now() + STOP_SECONDS
    try:
        request(directory / f"{name}.sock", {"request": "stop"})
    except NotRunning:
        pass  # it starts or stops at this moment, and its lock tells when it has done so
    except ControlError as error:
        raise DownError(str(error)) from None
    while instance.is_held(directory, name):
        if clock.now() > deadline:
            raise DownError(
                f"runs still, {STOP_SECONDS:g} s after it was asked to stop; kill it, then: tunneld down {name}"
            )
        time.sleep(LOOK_SECONDS)


def _sweep(directory: Path, name: str, *, quiet: bool) -> int:
    """Sweep under the lock of the name, so that no daemon starts meanwhile."""
    import asyncio
    from contextlib import ExitStack

    from tunneld import instance
    from tunneld.netcfg.journal import Journal

    with ExitStack() as stack:
        if directory.is_dir():
            try:
                stack.enter_context(instance.hold(directory, name))
            except instance.AlreadyRunsError as error:
                raise DownError(str(error)) from None
        cleared = asyncio.run(_clear(name, Journal(directory, name)))
        # Nobody answers there while we hold the name; `tunneld show` takes it for a killed daemon.
        (directory / f"{name}.sock").unlink(missing_ok=True)
    for command in cleared.commands:
        print(command)
    if not cleared.commands and not cleared.spared and not quiet:
        print(f"{name}: nothing to sweep")
    return 0 if cleared.clean else 1


async def _clear(name: str, journal: Journal) -> Cleared:
    import os

    from tunneld.edge import netns
    from tunneld.netcfg.apply import Cleared, clear
    from tunneld.netcfg.kernel import Kernel

    interface, space = _where(name, journal)
    if space is None:
        async with Kernel.open() as kernel:
            return await clear(kernel, name, interface, None, journal)
    try:
        namespace = netns.open_named(space)
    except FileNotFoundError:
        journal.remove()  # the namespace has gone, and everything in it
        return Cleared((), (), True)
    try:
        async with Kernel.open(namespace) as kernel:
            return await clear(kernel, name, interface, space, journal)
    finally:
        os.close(namespace)


def _where(name: str, journal: Journal) -> tuple[str | None, str | None]:
    """The device of the tunnel and its namespace: as the journal says, else as its configuration does."""
    from tunneld.config import load, resolve
    from tunneld.proto.errors import ConfigErrors

    record = journal.read()
    if record is not None:
        return record.interface, record.netns
    try:
        interface = load(resolve(name), read_keys=False).interface
    except ConfigErrors:
        return None, None  # it may have been a file elsewhere; a bridge of ours tells by itself
    return interface.name, interface.netns
