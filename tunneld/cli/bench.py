"""`tunneld bench`: throughput, packet rate and round trip of tunnels on this machine, beside the bare cable."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunneld.lab.bench.rounds import Results, Settings


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("bench", help="measure tunnels on this machine", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 15 s instead of a minute, and less certain")
    parser.add_argument("--rounds", metavar="N", type=_count, help="measure everything N times, interleaved")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure to FILE, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 1: a measurement failed; then there is no table. Raises DeviceError: no TUN device here."""
    from tunneld.lab import sandbox

    if args.json is not None and not _writable(args.json):
        print(f"tunneld: {args.json}: cannot be written; choose another --json FILE", file=sys.stderr)
        return 2
    try:
        privileges = sandbox.enter()
    except sandbox.SandboxUnavailableError as error:
        print(f"tunneld: {error}", file=sys.stderr)
        return 1
    # Only now: what comes next may start threads, and those cannot enter a user namespace.
    from dataclasses import replace

    from tunneld.edge.device import Device
    from tunneld.lab.bench import report
    from tunneld.lab.bench.remote import MeasureError
    from tunneld.lab.bench.rounds import QUICK, Settings

    Device.open("probe", "tun").close()
    settings = QUICK if args.quick else Settings()
    if args.rounds is not None:
        settings = replace(settings, rounds=args.rounds)
    try:
        results = _measure(settings)
    except MeasureError as error:
        print(f"tunneld: bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the hosts and all in them are gone", file=sys.stderr)
        return 130
    machine = report.machine(privileges)
    print(report.text(results, machine))
    return _write(args.json, report.document(results, machine)) if args.json is not None else 0


def _writable(path: Path) -> bool:
    return os.access(path if path.exists() else path.parent, os.W_OK) and not path.is_dir()


def _write(path: Path, document: dict[str, Any]) -> int:
    try:
        path.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        print(f"tunneld: {path}: {error.strerror}; the figures are above", file=sys.stderr)
        return 1
    return 0


def _measure(settings: Settings) -> Results:
    import asyncio

    from tunneld.lab.bench import rounds
    from tunneld.lab.bench.rig import VARIANTS

    erase = "\r\x1b[K" if sys.stderr.isatty() else ""

    def progress(step: str) -> None:
        if erase:
            print(f"{erase}{step}", end="", file=sys.stderr, flush=True)

    try:
        return asyncio.run(rounds.run(settings, VARIANTS, progress))
    finally:
        print(erase, end="", file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)
