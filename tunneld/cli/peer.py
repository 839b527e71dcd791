"""`tunneld peer`: what can be done about one peer of a running tunnel."""

from __future__ import annotations

import argparse
import sys

from tunneld.cli.down import tunnel_name


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("peer", help="mend one peer of a running tunnel", description=__doc__)
    actions = parser.add_subparsers(dest="action", metavar="reset-timestamp", required=True)
    reset = actions.add_parser(
        "reset-timestamp",
        help="forget how late the clock of a peer has been",
        description="Take the next handshake of a peer whose clock was ahead once and is right again.",
    )
    reset.add_argument("name", metavar="NAME", type=tunnel_name, help="the tunnel, which runs")
    reset.add_argument("peer", metavar="PEER", help="the name of the peer")
    reset.set_defaults(run=_reset_timestamp)


def _reset_timestamp(args: argparse.Namespace) -> int:
    from tunneld.control import ControlError, NotRunning, request, socket_path
    from tunneld.text import printable

    try:
        request(socket_path(args.name), {"request": "reset-timestamp", "peer": args.peer})
    except NotRunning:
        print(f"tunneld: {args.name}: not running, so there is nothing to forget", file=sys.stderr)
        return 1
    except ControlError as error:
        print(f"tunneld: {args.name}: {printable(args.peer)}: {error}", file=sys.stderr)
        return 1
    print(f"{args.name}: peer {printable(args.peer)}: its next handshake is taken, whatever its timestamp")
    return 0
