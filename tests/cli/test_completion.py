from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.conftest import missing
from tunneld.cli.completion import fish, walk, zsh
from tunneld.cli.main import VERBS, main, parser

COMPLETE = """
eval "$SCRIPT"
COMP_WORDS=(tunneld "$@")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_tunneld
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(capsys):
    """What a real bash offers for the last of `words`."""
    bash = shutil.which("bash")
    if bash is None:
        missing("bash is not installed: apt-get install bash")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def offered(*words: str) -> set[str]:
        command = [bash, "--norc", "-euc", COMPLETE, "bash", *words]
        done = subprocess.run(command, env={"SCRIPT": script}, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
        return set(done.stdout.split())

    return offered


def test_bash_offers_verbs(complete):
    assert complete("") == {*VERBS, "-h", "--help", "--version"}
    assert complete("si") == {"simpletun"}
    assert complete("--v") == {"--version"}
    assert complete("nothing-like-it") == set()


def test_bash_offers_what_belongs_to_the_verb(complete):
    assert complete("show", "--") == {"--help", "--json"}
    assert complete("device", "") == {"add", "del", "-h", "--help"}
    assert complete("device", "add", "kept0", "--") == {"--help", "--mode", "--user", "--group"}
    assert complete("completion", "") == {"bash", "zsh", "fish", "-h", "--help"}


def test_bash_offers_the_values_of_a_flag(complete):
    assert complete("run", "left", "--loop", "") == {"uvloop", "asyncio"}
    assert complete("device", "add", "--mode", "ta") == {"tap"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_flag_is_in_every_script(shell, capsys):
    assert main(["completion", shell]) == 0
    words = set(capsys.readouterr().out.replace('"', " ").split())
    for command in walk(parser()):
        wanted = {*command.words, *(flag for flag in command.flags)}
        if shell == "fish":
            wanted = {word.lstrip("-") for word in wanted}
        assert wanted - words == set()


@pytest.mark.parametrize(("shell", "generate"), [("zsh", zsh), ("fish", fish)])
def test_the_other_shells_take_their_script(shell, generate):
    binary = shutil.which(shell)
    if binary is None:
        missing(f"{shell} is not installed: apt-get install {shell}")
    script = generate(list(walk(parser())))
    done = subprocess.run([binary, "-n"], input=script, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
