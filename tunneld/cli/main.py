"""The command `tunneld`: its verbs, its exit codes and its one line for every failure.

Exit codes: 0 done, 1 failed while running, 2 usage or configuration, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import NoReturn

from tunneld import __version__
from tunneld.proto.errors import ConfigError, ConfigErrors, DeviceError
from tunneld.text import nearest, printable, quoted

VERBS = (
    "run", "check", "plan", "show", "down", "genkey", "pubkey", "genpsk", "import", "export", "device", "peer",
    "simpletun", "demo", "bench", "completion",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's, but nothing may be left: the verb tells it, which knows the flags that there are."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            near = nearest(left[0], list(self._option_string_actions))
            self.error(f"unrecognized arguments: {' '.join(left)}{f'; did you mean {near}?' if near else ''}")
        return found, left

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message, 1000)}; see {self.prog} --help\n")


def parser(verbs: Sequence[str] = VERBS) -> Parser:
    """The parser with these verbs. A verb's module is imported here, so it must be cheap until it runs."""
    top = Parser(prog="tunneld", description="Join Linux hosts by a tunnel.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tunneld {__version__}")
    actions = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for verb in verbs:
        import_module(f"tunneld.cli.{verb}{'_' if iskeyword(verb) else ''}").register(actions)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Raises SystemExit for --help, --version and wrong usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        args = _parsed(arguments)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (ConfigErrors, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    except DeviceError as error:
        print(f"tunneld: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads any more. What is still buffered must not fail a second time at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parsed(arguments: list[str]) -> argparse.Namespace:
    verb = arguments[0] if arguments else ""
    if verb in VERBS:
        # Only this verb: that of a script that calls `tunneld show` every second should cost little.
        return parser([verb]).parse_args(arguments)
    if verb and not verb.startswith("-"):
        near = nearest(verb, VERBS)
        hint = f"did you mean {quoted(near)}?" if near else "see tunneld --help"
        parser([]).exit(2, f"tunneld: {quoted(verb)} is no verb; {hint}\n")
    return parser().parse_args(arguments)
