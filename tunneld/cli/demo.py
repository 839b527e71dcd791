"""`tunneld demo`: hosts and their tunnels on this machine, shown step by step."""

from __future__ import annotations

import argparse
import os
import sys


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("demo", help="hosts and tunnels on this machine, step by step", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the hosts for playing, until Enter or Ctrl-C")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: every step passed. Raises DeviceError: this machine has no TUN device."""
    from tunneld.lab import sandbox

    try:
        mode = sandbox.enter()
    except sandbox.SandboxUnavailableError as error:
        print(f"tunneld: {error}", file=sys.stderr)
        return 1
    # Only now: what comes next may start threads, and those cannot enter a user namespace.
    import asyncio
    import signal

    from tunneld.edge.device import Device
    from tunneld.lab.demo.play import play
    from tunneld.lab.demo.screen import Screen

    Device.open("probe", "tun").close()
    screen = Screen.of(sys.stdout, os.environ)

    async def main() -> bool:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await play(screen, mode, args.keep, sys.stdin)

    try:
        return 0 if asyncio.run(main()) else 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; the hosts and all in them are gone", file=sys.stderr)
        return 128 + signal.SIGINT
