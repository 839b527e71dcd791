from __future__ import annotations

import base64
import os
import pickle
import shlex
import subprocess
import traceback
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MODE, missing
from tests.pieces import pieces_in
from tunneld.keys import BadKey, PresharedKey, PrivateKey, PublicKey, decode, encode, load_preshared_key
from tunneld.keys import load_private_key as load
from tunneld.proto.errors import ConfigError

PRIVATE = "yI5gvNMEiDSCDpIj1QvZZQjMbgQs4fXtSVK0g+hUvHM="
OTHER = base64.b64encode(bytes(range(1, 33))).decode()

LOW_ORDER = (
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def path(tmp_path):
    """A private key as it should be."""
    tmp_path.chmod(0o755)
    return written(tmp_path / "office.key", f"{PRIVATE}\n")


# --- the format


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_a_text_and_comes_back(raw):
    text = encode(raw)
    assert text == base64.b64encode(raw)
    assert decode(memoryview(text)) == raw


@given(st.binary(max_size=60) | st.text("AB+/=\n", max_size=60).map(str.encode))
def test_any_text_is_a_key_or_a_bad_one(text):
    try:
        raw = decode(memoryview(text))
    except BadKey:
        return
    assert text.rstrip(b" \t\n\v\f\r\0") == base64.b64encode(raw)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \t\v\f\0\n\n"])
def test_white_space_may_follow(end):
    assert encode(decode(memoryview((PRIVATE + end).encode()))) == PRIVATE.encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (PRIVATE[:-1], "expected 44 base64 characters (32 bytes), got 43"),
        (PRIVATE[1:], "expected 44 base64 characters (32 bytes), got 43"),
        (PRIVATE[4:], "expected 44 base64 characters (32 bytes), got 40"),
        ("A" * 3000, "expected 44 base64 characters (32 bytes), got 3000"),
        (PRIVATE[:4] + "*" + PRIVATE[5:], 'character "*" at position 5; a key is 32 random bytes in base64'),
        ("correct horse", 'character " " at position 8; a key is 32 random bytes in base64'),
        (f" {PRIVATE}", 'character " " at position 1; a key is 32 random bytes in base64'),
        (f"{PRIVATE}\n{PRIVATE}\n", 'character "=" at position 44; a key is 32 random bytes in base64'),
        (
            PRIVATE[:20] + "\x1b" + PRIVATE[21:],
            r'character "\x1b" at position 21; a key is 32 random bytes in base64',
        ),
        ("é", "byte 0xc3 at position 1; a key is 32 random bytes in base64"),
        (PRIVATE[:-1] + "A", 'the last of the 44 characters must be "="'),
        (PRIVATE[:-2] + "==", 'character "=" at position 43; a key is 32 random bytes in base64'),
        (PRIVATE[:-2] + "N=", 'no key has that character before "="; the text is damaged'),
        (PRIVATE[:-2] + "P=", 'no key has that character before "="; the text is damaged'),
    ],
)
def test_what_is_no_key_is_told(text, said):
    with pytest.raises(BadKey) as refusal:
        decode(memoryview(text.encode()))
    assert str(refusal.value) == said


# --- the types


def test_a_private_key_is_clamped():
    assert private(b"\xff" * 32).raw == b"\xf8" + b"\xff" * 30 + b"\x7f"
    assert private(bytes(32)).raw == bytes(31) + b"\x40"


def test_a_public_key_is_that_of_its_private_key():
    assert str(private(bytes(32)).public_key()) == "L+V9o0fNYkMVKNqsX7spBzD/9oSvxM/C7ZCZX1jLO3Q="
    key = private(b"\x01" * 32).public_key()
    assert PublicKey.decode(str(key)) == key


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top_bit", [0, 0x80])
def test_a_point_of_low_order_is_no_public_key(point, top_bit):
    raw = bytearray.fromhex(point)
    raw[31] |= top_bit
    with pytest.raises(BadKey) as refusal:
        PublicKey.decode(encode(raw).decode())
    assert str(refusal.value) == "not a usable key: it is of low order"


@pytest.mark.parametrize("text", ["\ud800", PRIVATE[:43] + "\udcff"])
def test_a_text_that_no_bytes_can_hold_is_no_public_key(text):
    with pytest.raises(BadKey, match="byte 0xed at position"):
        PublicKey.decode(text)


def test_a_public_key_shows_its_beginning_and_a_secret_a_fingerprint():
    public = private(bytes(32)).public_key()
    assert repr(public) == "PublicKey(L+V9o0fN…)"
    secret = PresharedKey(bytearray(b"k" * 32))
    assert repr(secret) == str(secret) == f"{secret}" == repr(PresharedKey(bytearray(b"k" * 32)))
    assert repr(secret) != repr(PresharedKey(bytearray(b"l" * 32)))
    assert pieces_in(b"k" * 32, repr(secret)) == []


def test_keys_are_equal_by_their_bytes_and_kind():
    assert private(b"\x40" * 32) == private(b"\x40" * 32)
    assert private(b"\x40" * 32) != private(b"\x48" * 32)
    assert private(b"\x40" * 32) != PresharedKey(bytearray(b"\x40" * 32))
    assert private(b"\x40" * 32) != b"\x40" * 32


def test_a_cleared_secret_is_gone():
    raw = bytearray(b"k" * 32)
    secret = PresharedKey(raw)
    secret.clear()
    assert raw == bytes(32)
    assert not secret.raw
    assert repr(secret) == "PresharedKey(cleared)"


def test_of_a_cleared_private_key_the_public_one_stays_if_it_was_asked_for():
    asked, other = private(b"k" * 32), private(b"k" * 32)
    public = asked.public_key()
    asked.clear()
    assert asked.public_key() == public
    other.clear()
    with pytest.raises(ValueError, match="32 bytes"):
        other.public_key()


def test_a_secret_is_not_pickled():
    for secret in (private(b"k" * 32), PresharedKey(bytearray(b"k" * 32))):
        with pytest.raises(TypeError, match="not to be stored"):
            pickle.dumps(secret)


# --- files


def test_a_key_is_found_beside_the_configuration_and_by_its_path(path, tmp_path):
    (tmp_path / "below").mkdir()
    for given_name, directory in (
        ("office.key", tmp_path),
        ("./office.key", tmp_path),
        ("../office.key", tmp_path / "below"),
        (str(path), Path("/")),
    ):
        assert encode(load(given_name, directory).raw) == PRIVATE.encode()


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_of_ours_alone_is_taken(path, mode):
    path.chmod(mode)
    load(str(path), path.parent)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_that_others_can_use_is_refused(path, mode):
    path.chmod(mode)
    assert refused(path) == f"has mode {mode:04o}; run: chmod 600 {path}"
    assert mended(path)


def test_a_directory_in_which_others_can_replace_the_key(path):
    for mode in (0o775, 0o757):
        path.parent.chmod(mode)
        assert refused(path) == f"its directory {path.parent} is writable by others; run: chmod go-w {path.parent}"
        assert mended(path)
    path.parent.chmod(0o1777)
    load(str(path), path.parent)


def test_a_directory_further_up_or_behind_a_link_counts_too(tmp_path):
    below = tmp_path / "open" / "a b"
    below.mkdir(parents=True)
    path = written(below / "office.key", PRIVATE)
    (tmp_path / "link").symlink_to(below)
    through_link = tmp_path / "link" / "office.key"
    below.parent.chmod(0o777)
    for given_path in (path, through_link):
        assert refused(given_path).startswith(f"its directory {below.parent} is writable by others")
    assert mended(through_link)
    below.chmod(0o777)
    assert refused(path).endswith(f"; run: chmod go-w '{below}'")
    assert mended(path)


def test_a_directory_in_which_others_can_replace_a_link_on_the_way_counts(path, tmp_path):
    through = tmp_path / "open" / "link"
    through.parent.mkdir()
    through.symlink_to(tmp_path)
    through.parent.chmod(0o777)
    assert refused(through / "office.key").startswith(f"its directory {through.parent} is writable by others")
    assert mended(through / "office.key")


def test_a_key_of_somebody_else_is_refused(path):
    if MODE != "root":
        missing("only root can give a file away")
    os.chown(path, 4711, -1)
    assert refused(path) == f"belongs to uid 4711; run: chown root {path}"
    assert mended(path)


def test_a_key_that_we_may_not_read(path, without_capabilities):
    path.chmod(0)
    us = "root" if os.geteuid() == 0 else str(os.geteuid())
    commands = f"chown {us} {path} && chmod 600 {path}"
    assert without_capabilities(lambda: refused(path)) == (
        f"permission denied (uid {os.geteuid()}); run: {commands}, or use LoadCredential= of systemd"
    )


def test_a_symbolic_link_is_refused(path, tmp_path):
    link = tmp_path / "link.key"
    link.symlink_to(path)
    said = refused(link)
    assert said == f"is a symbolic link; give the file itself, which is shown by: readlink -f {link}"
    shown = subprocess.run(shlex.split(said.rpartition(": ")[2]), capture_output=True, text=True, check=True)
    assert encode(load(shown.stdout.strip(), tmp_path).raw) == PRIVATE.encode()


def test_a_loop_of_links_on_the_way_is_refused(tmp_path):
    (tmp_path / "round").symlink_to("round")
    said = refused(tmp_path / "round" / "office.key")
    assert said == "cannot be read (Too many levels of symbolic links); give another file"


def test_what_is_no_regular_file_is_refused(path):
    assert refused(path.parent) == "is not a regular file; give a file"
    path.unlink()
    os.mkfifo(path, 0o600)
    assert refused(path) == "is not a regular file; give a file"


def test_names_that_no_file_has(tmp_path):
    assert refused(tmp_path / "a\0b") == "no name of a file holds a zero byte; give another file"
    assert refused(tmp_path / ("x" * 300)) == "cannot be read (File name too long); give another file"


def test_a_huge_file_is_no_key(path):
    os.truncate(path, 1 << 40)
    assert refused(path) == "larger than 4,096 bytes, so no key; give another file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not found"),
        ("", "empty"),
        ("\n", "empty"),
        (PRIVATE[1:], "expected 44 base64 characters (32 bytes), got 43"),
        (PRIVATE[:4] + "*" + PRIVATE[5:], 'character "*" at position 5; a key is 32 random bytes in base64'),
        ("A" * 43 + "=", "all-zero key"),
    ],
)
@pytest.mark.parametrize("verb", ["genkey", "genpsk"])
def test_what_is_no_key_says_how_one_is_made(tmp_path, text, said, verb):
    path = tmp_path / "it's.key"
    if text is not None:
        written(path, text)
    command = f"(umask 077; tunneld {verb} >{shlex.quote(str(path))})"
    assert refused(path, verb) == f"{said}; create it with tunneld {verb}: {command}"


def test_a_preshared_key_is_not_the_private_key(path, tmp_path):
    key = load(str(path), tmp_path)
    other = written(tmp_path / "other.psk", OTHER)
    assert encode(load_preshared_key("other.psk", tmp_path, key).raw) == OTHER.encode()
    unclamped = bytearray(key.raw)
    unclamped[0] |= 7
    for same in (key.raw, unclamped):
        written(other, encode(same).decode())
        with pytest.raises(ConfigError) as refusal:
            load_preshared_key("other.psk", tmp_path, key)
        assert str(refusal.value).startswith(f"{other}: equals the private key; create it with tunneld genpsk: ")


# --- credentials


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """A directory of credentials, with another key of the same name beside the configuration."""
    directory = tmp_path / "credentials"
    directory.mkdir(mode=0o755)
    written(directory / "office.key", OTHER)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def test_a_name_is_a_credential_where_there_are_any(path, credentials, monkeypatch):
    wanted = private(bytes(range(1, 33)))
    assert load("office.key", path.parent) == wanted
    assert load("./office.key", path.parent) != wanted
    assert load(str(path), path.parent) != wanted
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "")
    assert load("office.key", path.parent) != wanted


def test_the_mask_of_the_access_list_of_a_credential_is_no_fault(path, credentials):
    (credentials / "office.key").chmod(0o440)
    load("office.key", path.parent)
    for mode in (0o444, 0o460, 0o450):
        (credentials / "office.key").chmod(mode)
        with pytest.raises(ConfigError, match=f"has mode {mode:04o}"):
            load("office.key", path.parent)


def test_a_credential_that_is_missing_or_bad_names_its_line_in_the_unit(path, credentials):
    missing_one = credentials / "home.key"
    with pytest.raises(ConfigError) as refusal:
        load("home.key", path.parent)
    remedy = "add LoadCredential=home.key:FILE to the unit, or give ./home.key for a file"
    assert str(refusal.value) == f"{missing_one}: not found; {remedy}"
    written(missing_one, "")
    with pytest.raises(ConfigError) as refusal:
        load("home.key", path.parent)
    assert str(refusal.value) == (
        f"{missing_one}: empty; create the file of LoadCredential=home.key with tunneld genkey"
    )


# --- nothing is told


@pytest.mark.parametrize(
    "text",
    [
        PRIVATE[:-1],
        PRIVATE[:-2] + "*=",
        PRIVATE[:-2] + "N=",
        PRIVATE[:-1] + "A",
        f"{PRIVATE}\n{PRIVATE}\n",
        PRIVATE + " " * 5000,
    ],
)
def test_a_refusal_and_its_traceback_hold_nothing_of_the_key(tmp_path, text):
    written(tmp_path / "office.key", text)
    with pytest.raises(ConfigError) as refusal:
        load("office.key", tmp_path)
    assert "\n" not in str(refusal.value)
    lines = traceback.TracebackException.from_exception(refusal.value, capture_locals=True)
    told = "".join(lines.format()).replace(repr(text), "")
    assert "content = bytearray" in told
    assert pieces_in(base64.b64decode(PRIVATE), told) == []


def test_what_was_decoded_before_a_fault_is_wiped():
    text = bytearray(PRIVATE.encode())
    text[-2:-1] = b"N"
    with pytest.raises(BadKey) as refusal:
        decode(memoryview(text))
    text[:] = bytes(44)
    lines = traceback.TracebackException.from_exception(refusal.value, capture_locals=True)
    told = "".join(lines.format())
    assert "raw = bytearray" in told
    assert pieces_in(base64.b64decode(PRIVATE), told) == []


def test_a_traceback_with_a_loaded_key_holds_nothing_of_it(path):
    def fails(key: PrivateKey) -> None:
        raise RuntimeError(f"{key} {key!r} {[key]}")

    with pytest.raises(RuntimeError) as failure:
        fails(load(str(path), path.parent))
    lines = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
    assert pieces_in(base64.b64decode(PRIVATE), "".join(lines.format())) == []


def test_a_piece_of_a_key_is_noticed():
    raw = base64.b64decode(PRIVATE)
    for leak in (
        PRIVATE,
        PRIVATE[3:14],
        raw.hex(),
        raw.hex().upper(),
        repr(raw),
        repr(bytearray(raw)),
        str(list(raw)),
        raw,
    ):
        assert pieces_in(raw, leak)


def private(raw: bytes) -> PrivateKey:
    return PrivateKey(bytearray(raw))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def refused(path: Path, verb: str = "genkey") -> str:
    """Why the key in `path` is not taken."""
    read = load if verb == "genkey" else partial(load_preshared_key, private=private(b"k" * 32))
    with pytest.raises(ConfigError) as refusal:
        read(str(path), Path("/"))
    file, _, said = str(refusal.value).partition(": ")
    assert file == str(path).replace("\0", r"\x00")
    return said


def mended(path: Path) -> bool:
    """Whether the command of the refusal mends it."""
    command = refused(path).rpartition("run: ")[2]
    subprocess.run(shlex.split(command), check=True)
    load(str(path), Path("/"))
    return True
