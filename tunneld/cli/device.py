"""`tunneld device add|del`: persistent TUN and TAP devices, which an unprivileged owner can attach to."""

from __future__ import annotations

import argparse
from collections.abc import Callable

NO_ID = 0xFFFF_FFFF  # (uid_t) -1 stands for "none" in the kernel


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "device",
        help="make or remove a persistent TUN/TAP device",
        description="Make or remove a TUN/TAP device that stays when no process holds it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="add|del", required=True)

    add = actions.add_parser("add", help="make a device", description="Make a persistent device.")
    add.add_argument("name", metavar="NAME", type=_device, help="its name, at most 15 bytes")
    add.add_argument("--mode", choices=("tun", "tap"), required=True, help="tun: IP packets; tap: Ethernet frames")
    add.add_argument("--user", metavar="U", type=_user, help="name or number of who may attach without privileges")
    add.add_argument("--group", metavar="G", type=_group, help="name or number of a group that may, too")
    add.set_defaults(run=_add)

    delete = actions.add_parser("del", help="remove a device", description="Remove a persistent device.")
    delete.add_argument("name", metavar="NAME", type=_device, help="its name")
    delete.set_defaults(run=_delete)


def _add(args: argparse.Namespace) -> int:
    from tunneld.edge import tuntap

    tuntap.add(args.name, args.mode, args.user, args.group)
    owner = "" if args.user is None else f" user {args.user}"
    group = "" if args.group is None else f" group {args.group}"
    print(f"ip tuntap add dev {args.name} mode {args.mode}{owner}{group}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    from tunneld.edge import tuntap

    found = tuntap.delete(args.name)
    print(f"ip tuntap del dev {args.name} mode {found.mode}")
    return 0


def _device(text: str) -> str:
    from tunneld.edge import tuntap

    if fault := tuntap.name_fault(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {fault}")
    return text


def _user(text: str) -> int:
    import pwd

    return _number(text, "user", "passwd", lambda name: pwd.getpwnam(name).pw_uid)


def _group(text: str) -> int:
    import grp

    return _number(text, "group", "group", lambda name: grp.getgrnam(name).gr_gid)


def _number(text: str, what: str, database: str, lookup: Callable[[str], int]) -> int:
    try:
        number = int(text) if text.isdecimal() else lookup(text)
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no {what} {text!r}; see: getent {database}") from None
    if number >= NO_ID:
        raise argparse.ArgumentTypeError(f"{text} is no {what}; numbers end at {NO_ID - 1}")
    return number
