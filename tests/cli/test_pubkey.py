from __future__ import annotations

import array
import base64
import fcntl
import os
import random
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conftest import missing
from tests.test_keys import PRIVATE, pieces_in
from tunneld.keys import PresharedKey, encode

TUNNELD = [sys.executable, "-m", "tunneld"]
ZEROS = "A" * 43 + "="
UNCLAMPED = "/" * 42 + "8="
HIGH_BITS = encode(bytes(range(224, 256))).decode()


def pubkey(text: str | bytes, command: list[str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error for this standard input."""
    given = text.encode() if isinstance(text, str) else text
    done = subprocess.run([*(command or TUNNELD), "pubkey"], input=given, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (ZEROS, "L+V9o0fNYkMVKNqsX7spBzD/9oSvxM/C7ZCZX1jLO3Q="),
        ("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR2suSo=", "cA/SGN0UI5/tqW0OJ58H8l/ZZomM1brUN+Cr7EX8Vxs="),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_public_key(private, public, end):
    assert pubkey(private + end) == (0, f"{public}\n", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (PRIVATE[1:], "expected 44 base64 characters (32 bytes), got 43"),
        (PRIVATE[:4] + "*" + PRIVATE[5:], 'character "*" at position 5; a key is 32 random bytes in base64'),
        (b"\xff" * 44, "byte 0xff at position 1; a key is 32 random bytes in base64"),
        ("A" * 10_000, "longer than 4,096 bytes"),
    ],
)
def test_what_is_no_key_is_one_line(text, said):
    line = f"tunneld: standard input: {said}; give a private key: tunneld pubkey <FILE\n"
    assert pubkey(text) == (1, "", line)


def test_what_cannot_be_read_is_one_line(tmp_path):
    descriptor = os.open(tmp_path / "key", os.O_WRONLY | os.O_CREAT)
    try:
        done = subprocess.run([*TUNNELD, "pubkey"], stdin=descriptor, capture_output=True, text=True, check=False)
    finally:
        os.close(descriptor)
    line = "tunneld: standard input: Bad file descriptor; give a private key: tunneld pubkey <FILE\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def test_the_verbs_form_a_pipe():
    command = f'k=$("{sys.executable}" -m tunneld genkey | tee /dev/stderr | "{sys.executable}" -m tunneld pubkey)'
    done = subprocess.run(["sh", "-c", f'{command} && echo "$k"'], capture_output=True, text=True, check=True)
    assert pubkey(done.stderr) == (0, done.stdout, "")


def test_a_key_that_comes_in_pieces():
    with subprocess.Popen([*TUNNELD, "pubkey"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        for at in range(0, 44, 11):
            child.stdin.write(PRIVATE[at : at + 11].encode())
        child.stdin.close()
        said = child.stdout.read().decode()
    assert (0, said, "") == pubkey(PRIVATE)


def unread(pipe: BinaryIO) -> int:
    """Bytes that nobody has taken out of the pipe yet."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_the_key_is_in_no_list_of_processes():
    """The child waits for the end of its input, so it has the key while it is looked at."""
    with subprocess.Popen([*TUNNELD, "pubkey"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(PRIVATE.encode())
        child.stdin.flush()
        # Until then it may not even have its command line: exec is not done.
        while unread(child.stdin) and child.poll() is None:
            time.sleep(0.001)
        shown = [Path(f"/proc/{child.pid}/{file}").read_text() for file in ("cmdline", "environ")]
        child.communicate()
    assert "pubkey" in shown[0]
    assert [pieces_in(base64.b64decode(PRIVATE), text) for text in shown] == [[], []]


# --- beside wg


@pytest.fixture
def wg():
    found = shutil.which("wg")
    if found is None:
        missing("wg is not installed: apt-get install wireguard-tools")
    return [found]


def test_wg_says_the_same_for_the_same_key(wg):
    draw = random.Random(3)
    texts = [encode(draw.randbytes(32)).decode() for _ in range(8)]
    for text in (ZEROS, UNCLAMPED, HIGH_BITS, PRIVATE, *texts):
        assert pubkey(text) == pubkey(text, wg)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \t\v\f\0\n"])
def test_wg_takes_the_same_end(wg, end):
    assert pubkey(PRIVATE + end) == pubkey(PRIVATE + end, wg)
    assert pubkey(PRIVATE + end)[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", PRIVATE[1:], PRIVATE[:-1], f" {PRIVATE}", f"{PRIVATE}x", f"{PRIVATE}\n{PRIVATE}",
        PRIVATE[:-1] + "A", PRIVATE[:-2] + "N=", PRIVATE[:-2] + "P=", PRIVATE[:-2] + "==", PRIVATE.replace("+", "-"),
        PRIVATE[:9] + "\0" + PRIVATE[10:], PRIVATE[:9] + "=" + PRIVATE[10:],
    ],
)  # fmt: skip
def test_wg_refuses_the_same(wg, text):
    for command in (None, wg):
        code, printed, said = pubkey(text, command)
        assert (code, printed) == (1, "")
        assert said.count("\n") == 1


def test_each_takes_the_keys_of_the_other(wg):
    for maker, taker in ((wg, TUNNELD), (TUNNELD, wg)):
        made = subprocess.run([*maker, "genkey"], capture_output=True, text=True, check=True).stdout
        assert pubkey(made, taker) == pubkey(made, maker)
    made = subprocess.run([*wg, "genpsk"], capture_output=True, text=True, check=True).stdout
    assert len(made) == 45
    assert PresharedKey(bytearray(base64.b64decode(made))).raw
