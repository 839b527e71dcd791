from __future__ import annotations

import stat

import pytest

from tests.disks import fill, small_disk
from tunneld import durable


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    durable.replace(path, b"first")
    path.chmod(0o644)
    durable.replace(path, bytearray(b"2nd"))
    assert path.read_bytes() == b"2nd"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_is_no_obstacle(tmp_path):
    (tmp_path / "file.new").write_bytes(b"half of")
    (tmp_path / "file.new").chmod(0o444)
    durable.replace(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.replace(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", ["file", "directory", "dangling link"])
def test_nothing_is_created_over_something(there, tmp_path):
    path = tmp_path / "file"
    make = {"file": path.touch, "directory": path.mkdir, "dangling link": lambda: path.symlink_to("nowhere")}
    make[there]()
    with pytest.raises(FileExistsError):
        durable.create(path, b"content")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_its_mode(tmp_path):
    durable.create(tmp_path / "file", b"content", 0o640)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_small_disk_leaves_what_was_there(tmp_path, namespaces):
    with small_disk(tmp_path / "disk") as disk:
        durable.replace(disk / "file", b"old")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            durable.replace(disk / "file", bytes(5000))
        with pytest.raises(OSError, match="No space left"):
            durable.create(disk / "other", bytes(5000))
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "file"]
        assert (disk / "file").read_bytes() == b"old"


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        durable.replace(tmp_path / "none/file", b"content")
    with pytest.raises(FileNotFoundError):
        durable.sync_directory(tmp_path / "none")
