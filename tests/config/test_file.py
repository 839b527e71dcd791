from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunneld.config import file
from tunneld.config.document import Faults
from tunneld.proto.errors import ConfigErrors


@pytest.fixture
def path(tmp_path):
    tmp_path.chmod(0o755)
    path = tmp_path / "left.toml"
    path.write_text("x = 1\n")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("left", "/etc/tunneld/left.toml"),
        ("left.toml", "left.toml"),
        ("./left", "left"),
        ("/a/b.conf", "/a/b.conf"),
    ],
)
def test_a_word_is_a_name_and_the_rest_is_a_path(given, path):
    assert file.resolve(given) == Path(path)


def test_the_text_is_read_without_its_byte_order_mark(path):
    path.write_bytes(b"\xef\xbb\xbfname = '\xc3\xbc'\n")
    faults = Faults(path)
    assert file.read(path, faults) == "name = 'ü'\n"
    assert faults.errors == []


def test_a_missing_name_says_where_it_was_sought():
    assert _refusal(file.resolve("left")) == (
        "/etc/tunneld/left.toml: not found; create it, or give a file elsewhere as a path: ./left.toml"
    )


def test_a_missing_file(path):
    path.unlink()
    assert _refusal(path) == f"{path}: not found; create it or give another file"


def test_a_directory(path):
    assert _refusal(path.parent) == f"{path.parent}: is a directory; give a file"


def test_a_pipe_does_not_hold_us_up(path):
    path.unlink()
    os.mkfifo(path)
    assert _refusal(path) == f"{path}: is not a regular file; give a file"


def test_a_name_too_long_for_the_system(path):
    assert _refusal(path.parent / ("x" * 300)).endswith(": cannot be read (File name too long); give another file")


def test_bytes_that_are_not_utf8_are_found_with_their_line(path):
    path.write_bytes(b"a = 1\n\nb = '\xff'\n")
    assert _refusal(path) == f"{path}:3: byte 0xff at line 3; save as UTF-8"


def test_a_huge_file_is_not_read_to_its_end(path):
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert _refusal(path) == f"{path}: larger than 1,048,576 bytes; is this the configuration?"


def test_a_file_that_we_may_not_read(path, without_capabilities):
    path.chmod(0)
    message = f"permission denied (uid {os.geteuid()}); chown it to that user or chmod 0644"
    assert without_capabilities(lambda: _refusal(path)) == f"{path}: {message}"


@pytest.mark.parametrize(("mode", "who"), [(0o664, "group"), (0o646, "others"), (0o666, "group and others")])
def test_a_file_that_somebody_else_could_change(path, mode, who):
    path.chmod(mode)
    assert _faults(path) == [f"{path}: writable by {who}, who could change what runs; chmod go-w {path}"]


def test_a_directory_in_which_somebody_else_could_replace_the_file(path):
    path.parent.chmod(0o775)
    assert _faults(path) == [
        f"{path}: its directory is writable by group, who could replace it; chmod go-w {path.parent}"
    ]
    path.parent.chmod(0o1777)
    assert _faults(path) == []


def test_the_directory_behind_a_link_counts_too(path, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "left.toml").symlink_to(path)
    other.chmod(0o755)
    path.parent.chmod(0o757)
    assert _faults(other / "left.toml") == [
        f"{other}/left.toml: its directory is writable by others, who could replace it; chmod go-w {path.parent}"
    ]


def _refusal(path: Path) -> str:
    with pytest.raises(ConfigErrors) as refusal:
        file.read(path, Faults(path))
    assert len(refusal.value.errors) == 1
    return str(refusal.value)


def _faults(path: Path) -> list[str]:
    faults = Faults(path)
    assert file.read(path, faults)
    return [str(error) for error in faults.errors]
