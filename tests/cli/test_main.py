from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from tunneld import __version__
from tunneld.cli.main import VERBS, main, parser

TUNNELD = [sys.executable, "-m", "tunneld"]


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"tunneld {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_something_to_run(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tunneld {verb} ")


def test_help_names_every_verb():
    text = parser().format_help()
    assert [verb for verb in VERBS if f"\n    {verb}" not in text] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "tunneld: the following arguments are required: VERB; see tunneld --help"),
        (["chek"], 'tunneld: "chek" is no verb; did you mean "check"?'),
        (["frobnicate"], 'tunneld: "frobnicate" is no verb; see tunneld --help'),
        (["\x1b[2J"], r'tunneld: "\x1b[2J" is no verb; see tunneld --help'),
        (["--verbose"], "tunneld: the following arguments are required: VERB; see tunneld --help"),
        (["check"], "tunneld check: the following arguments are required: NAME|FILE; see tunneld check --help"),
        (["check", "a", "b\n"], r"tunneld check: unrecognized arguments: b\n; see tunneld check --help"),
        (
            ["run", "a", "--lop"],
            "tunneld run: unrecognized arguments: --lop; did you mean --loop?; see tunneld run --help",
        ),
        (["run", "a", "--loop", "trio"], None),
    ],
)
def test_wrong_usage_is_one_line(arguments, line, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    if line is not None:
        assert printed.err == f"{line}\n"


def test_faults_of_the_configuration_are_exit_code_2(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.toml: not found; create it or give another file\n"


def test_ctrl_c_ends_without_a_traceback(tmp_path):
    """show waits for a daemon that does not answer."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "t.sock"))
        deaf.listen()
        deaf.settimeout(30)
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
        child = subprocess.Popen([*TUNNELD, "show", "t"], env=environment, stderr=subprocess.PIPE)
        with deaf.accept()[0] as asking:
            asking.recv(100)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, b"")


def test_a_reader_that_has_gone_is_not_a_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([*TUNNELD, "completion", "bash"], stdout=writing, stderr=subprocess.PIPE, timeout=30)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["show"], {"pyroute2", "uvloop", "cryptography", "asyncio", "dataclasses", "tomllib", "tunneld.config"}),
        (["check", "/none.toml"], {"pyroute2", "uvloop", "cryptography", "asyncio"}),
    ],
)
def test_a_quick_verb_imports_nothing_slow(arguments, heavy):
    script = f"import sys; from tunneld.cli.main import main; main({arguments!r}); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(ended.stdout.split())
    assert "tunneld.cli.main" in loaded
    assert loaded & heavy == set()


def test_the_parser_alone_imports_nothing_slow():
    script = "import sys; from tunneld.cli.main import parser; parser(); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert set(ended.stdout.split()) & {"pyroute2", "uvloop", "cryptography", "asyncio"} == set()
