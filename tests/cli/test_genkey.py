from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunneld.cli.main import main

TUNNELD = [sys.executable, "-m", "tunneld"]


@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
def test_a_key_is_one_line_and_never_the_same(verb, capfd):
    texts = set()
    for _ in range(20):
        assert main([verb]) == 0
        printed = capfd.readouterr()
        assert printed.err == ""
        assert len(base64.b64decode(printed.out.removesuffix("\n"), validate=True)) == 32
        assert printed.out.count("\n") == 1
        texts.add(printed.out)
    assert len(texts) == 20


def test_a_private_key_is_clamped_as_wg_does(capfd):
    for _ in range(20):
        main(["genkey"])
        raw = base64.b64decode(capfd.readouterr().out)
        assert (raw[0] & 7, raw[31] & 0xC0) == (0, 0x40)


@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True), (0o666, True)])
def test_a_file_that_others_can_use_is_warned_about(verb, mode, warned, tmp_path):
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    with path.open("w") as file:
        done = subprocess.run([*TUNNELD, verb], stdout=file, stderr=subprocess.PIPE, text=True, check=True)
    assert len(path.read_text()) == 45
    line = (
        f"tunneld: warning: the key goes to a file of mode {mode:04o}, which others can use; "
        "chmod 600 it, and set umask 077 beforehand the next time\n"
    )
    assert done.stderr == (line if warned else "")


def test_a_full_disk_is_one_line_and_a_failure():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*TUNNELD, "genkey"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "tunneld: standard output: No space left on device; what is there is no key, try again elsewhere\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_reader_that_has_gone_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*TUNNELD, "genkey"], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("verb", ["genkey", "pubkey", "genpsk"])
def test_words_after_the_verb_are_wrong_usage(verb, capsys):
    """Where somebody might put a key, in sight of everybody who lists processes."""
    with pytest.raises(SystemExit) as end:
        main([verb, "word"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"tunneld {verb}: unrecognized arguments: word; see tunneld {verb} --help\n"


@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
def test_making_a_key_imports_nothing_slow(verb):
    script = f"import sys; from tunneld.cli.main import main; main([{verb!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tunneld.keys" in loaded
    assert loaded & {"pyroute2", "uvloop", "cryptography", "asyncio", "tunneld.config"} == set()
