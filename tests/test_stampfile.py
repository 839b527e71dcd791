"""The memory of the last timestamp: ahead of use, durable, and no trouble to a tunnel on a bad disk."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import fill, make_read_only, small_disk
from tunneld import stampfile
from tunneld.edge import clock
from tunneld.proto.const import REKEY_AFTER_TIME
from tunneld.proto.tai64n import BASE, LABEL, NEVER, Stamper, later, seconds_between, stamp
from tunneld.stampfile import AHEAD, PATIENCE, RETRY, Keeper, StampFile, state_dir

WALL = 1_790_000_000.25  # seconds since 1970
FULL = ": if the clock falls back before the next start, peers refuse us"


@pytest.fixture
def file(tmp_path):
    return StampFile(tmp_path / "state/office.stamp")


# --- the file


def test_what_is_saved_is_loaded(file):
    assert file.load() == NEVER
    file.save(stamp(WALL))
    file.save(stamp(WALL + 1))
    assert StampFile(file.path).load() == stamp(WALL + 1)
    assert file.path.read_text() == stamp(WALL + 1).hex() + "\n"
    assert [path.name for path in file.path.parent.iterdir()] == ["office.stamp"]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("year", [1970, 2099, 9999])
def test_every_year_is_taken_as_it_is(file, year, caplog):
    """Our peers have seen it: to begin below it would be what the file is there to prevent."""
    label = LABEL.pack(BASE + (year - 1970) * 31_556_952, 999_999_999)
    file.save(label)
    assert file.load() == label
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes, not 12"),
        (stamp(WALL).hex()[:-2].encode(), "11 bytes, not 12"),
        (stamp(WALL).hex().encode() * 5, "not hexadecimal"),
        (stamp(WALL), "not hexadecimal"),
        (b"noon", "not hexadecimal"),
        (bytes(12).hex().encode(), "a timestamp of no year that we shall see"),
        (b"ff" * 12, "a timestamp of no year that we shall see"),
        (LABEL.pack(BASE, 1_000_000_000).hex().encode(), "a timestamp of no year that we shall see"),
        (LABEL.pack(BASE - 1, 0).hex().encode(), "a timestamp of no year that we shall see"),
    ],
)
def test_a_broken_file_is_one_warning_and_no_floor(file, content, why, caplog):
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    assert file.load() == NEVER
    (line,) = caplog.messages
    assert line.startswith(f"{file.path} cannot be used (")
    assert why in line
    assert line.endswith("): peers refuse us if our clock has fallen back")


def test_a_directory_in_its_place_is_one_warning(file, caplog):
    file.path.mkdir(parents=True)
    assert file.load() == NEVER
    assert caplog.messages == [
        f"{file.path} cannot be used (Is a directory): peers refuse us if our clock has fallen back"
    ]


@given(st.binary(max_size=200))
def test_any_content_is_a_label_or_none(content):
    path = Path(f"/proc/self/fd/{os.memfd_create('stamp')}")
    try:
        path.write_bytes(content)
        label = StampFile(path).load()
        assert len(label) == LABEL.size
        later(label, AHEAD)
    finally:
        os.close(int(path.name))


# --- ahead of use


def initiate(stamper: Stamper, keeper: Keeper, at: float, wall: float | None = None) -> bytes:
    """An initiation `at` seconds after the boot."""
    label = stamper.next(WALL + at if wall is None else wall)
    keeper.keep(stamper.floor, at)
    return label


def begin(file: StampFile) -> tuple[Stamper, Keeper]:
    floor = file.load()
    return Stamper(floor), Keeper(file, floor)


def test_whenever_the_process_is_killed_the_next_one_goes_on_above(file):
    """With a clock that stands still, runs, or falls back to 1970 at every start."""
    last = NEVER
    for start in range(30):
        stamper, keeper = begin(file)
        for step in range(start % 4 * 10):
            at = start * 7.0 + step * 5
            label = initiate(stamper, keeper, at, {0: WALL, 1: WALL + at}.get(start % 3, 0.0))
            assert label > last
            assert file.load() > label
            last = label


def test_it_writes_once_a_minute_however_many_initiations(file):
    stamper, keeper = begin(file)
    written = set()
    for at in range(0, 600):
        initiate(stamper, keeper, at)
        written.add(file.path.stat().st_ino)
        assert file.load() >= stamper.floor
    assert len(written) <= 10


def test_it_writes_at_once_when_the_clock_leaps_ahead(file):
    stamper, keeper = begin(file)
    initiate(stamper, keeper, 0)
    initiate(stamper, keeper, 1, WALL + 86_400)
    assert file.load() == later(stamper.floor, AHEAD)


def test_an_orderly_end_leaves_the_floor_itself(file):
    """So a hundred restarts do not carry the timestamps an hour and a half into the future."""
    for start in range(100):
        stamper, keeper = begin(file)
        initiate(stamper, keeper, float(start))
        keeper.close(stamper.floor)
    assert seconds_between(stamp(WALL + 99), file.load()) < 2.1


def test_a_start_without_initiation_leaves_the_file_alone(file):
    stamper, keeper = begin(file)
    keeper.close(stamper.floor)
    assert not file.path.exists()
    file.save(stamp(WALL))
    written = file.path.stat().st_mtime_ns
    stamper, keeper = begin(file)
    keeper.close(stamper.floor)
    assert file.path.stat().st_mtime_ns == written


# --- bad disks (O1, O2)


def test_a_full_disk_is_one_warning_and_one_attempt_a_minute(tmp_path, namespaces, caplog):
    with small_disk(tmp_path / "disk") as disk:
        stamper, keeper = begin(file := StampFile(disk / "office.stamp"))
        initiate(stamper, keeper, 0)
        kept = file.load()
        fill(disk)
        for at in range(0, 600, 5):
            initiate(stamper, keeper, at)
        assert file.load() == kept
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "office.stamp"]
        assert caplog.messages == [f"cannot write {file.path} (No space left on device){FULL}"]

        (disk / "ballast").unlink()
        initiate(stamper, keeper, 601)
        initiate(stamper, keeper, 660)
        assert file.load() == later(stamper.floor, AHEAD)
        fill(disk)
        initiate(stamper, keeper, 660 + AHEAD + 2)
        assert len(caplog.messages) == 2


def test_a_read_only_disk_is_one_warning(tmp_path, namespaces, caplog):
    with small_disk(tmp_path / "disk") as disk:
        StampFile(disk / "office.stamp").save(stamp(WALL))
        make_read_only(disk)
        stamper, keeper = begin(file := StampFile(disk / "office.stamp"))
        for at in range(0, 600, 5):
            assert initiate(stamper, keeper, at) >= stamp(WALL)
        keeper.close(stamper.floor)
        assert file.load() == stamp(WALL)
    assert caplog.messages == [f"cannot write {file.path} (Read-only file system){FULL}"]


def test_a_directory_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "state").touch()
    stamper, keeper = Stamper(), Keeper(StampFile(tmp_path / "state/office.stamp"), NEVER)
    initiate(stamper, keeper, 0)
    initiate(stamper, keeper, 100)
    assert len(caplog.messages) == 1


def test_a_failed_write_is_not_tried_again_for_a_minute(file, caplog):
    file.path.parent.touch()
    stamper, keeper = Stamper(), Keeper(file, NEVER)
    initiate(stamper, keeper, 0)
    file.path.parent.unlink()
    initiate(stamper, keeper, RETRY - 1)
    assert not file.path.exists()
    initiate(stamper, keeper, RETRY)
    assert file.load() == later(stamper.floor, AHEAD)
    assert len(caplog.messages) == 1


# --- slow disks


class SlowDisk(StampFile):
    """A disk that writes when `free` is set, and no sooner."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.free = threading.Event()
        self.free.set()
        self.began = threading.Event()

    def save(self, label: bytes) -> None:
        self.began.set()
        assert self.free.wait(30)
        super().save(label)


@pytest.fixture
def slow(tmp_path):
    """A disk that was fast for the first initiation, its Stamper and its Keeper."""
    disk = SlowDisk(tmp_path / "state/office.stamp")
    stamper, keeper = begin(disk)
    initiate(stamper, keeper, 0)
    disk.free.clear()
    disk.began.clear()
    yield disk, stamper, keeper
    disk.free.set()


def test_while_a_session_lives_no_initiation_waits_for_the_disk(slow, caplog):
    disk, stamper, keeper = slow
    began = clock.now()
    for at in (int(REKEY_AFTER_TIME), int(REKEY_AFTER_TIME) + 5, AHEAD - 2):
        assert initiate(stamper, keeper, at) < disk.load()
        assert disk.began.wait(5)
    assert clock.now() - began < PATIENCE / 2
    disk.free.set()
    assert until(lambda: disk.load() >= later(stamp(WALL + REKEY_AFTER_TIME), AHEAD))
    for at in range(AHEAD - 1, 1000, 100):
        assert initiate(stamper, keeper, at) < disk.load()
    assert caplog.messages == []


def test_a_disk_that_hangs_is_one_warning_and_stops_nothing(slow, caplog, monkeypatch):
    monkeypatch.setattr(stampfile, "PATIENCE", 0.01)
    disk, stamper, keeper = slow
    kept = disk.load()
    for at in range(0, 1000, 5):
        initiate(stamper, keeper, at)
    keeper.close(stamper.floor)
    assert disk.load() == kept
    assert caplog.messages == [f"cannot write {disk.path} (the disk takes longer than 0.01 s){FULL}"]
    disk.free.set()
    assert until(lambda: disk.load() > kept)
    monkeypatch.undo()
    assert initiate(stamper, keeper, 1000) < disk.load()


def test_the_end_waits_for_a_write_under_way(slow):
    disk, stamper, keeper = slow
    initiate(stamper, keeper, REKEY_AFTER_TIME)
    assert disk.began.wait(5)
    timer = threading.Timer(0.05, disk.free.set)
    timer.start()
    keeper.close(stamper.floor)
    timer.join()
    assert disk.load() == stamper.floor


def test_what_is_no_failure_of_the_disk_is_a_bug(file):
    file.path = None
    with pytest.raises(AttributeError):
        initiate(Stamper(), Keeper(file, NEVER), 0)


def test_a_process_that_is_killed_at_any_moment_has_sent_nothing_that_the_next_one_repeats(tmp_path):
    """It initiates as fast as it can by a clock that runs a minute for each, and falls back at every start."""
    last = NEVER
    for number in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        with process:
            lines = [process.stdout.readline() for _ in range(30 + 7 * number)]
            process.kill()
            sent = [bytes.fromhex(line.decode()) for line in (*lines, *process.stdout)]
        assert sent == sorted(sent)
        assert sent[0] > last
        last = sent[-1]


KILLED = f"""
import os, sys
from pathlib import Path
from tunneld.proto.tai64n import Stamper
from tunneld.stampfile import Keeper, StampFile

file = StampFile(Path(sys.argv[1]) / "office.stamp")
floor = file.load()
stamper, keeper = Stamper(floor), Keeper(file, floor)
for number in range(1_000_000):
    label = stamper.next({WALL} + 60 * number)
    keeper.keep(stamper.floor, 60.0 * number)
    os.write(1, label.hex().encode() + b"\\n")
"""


def until(condition: Callable[[], bool]) -> bool:
    """Whether `condition` comes true within 5 s."""
    end = clock.now() + 5.0
    while not condition() and clock.now() < end:
        time.sleep(0.005)
    return condition()


# --- the directory


@pytest.mark.parametrize(
    ("environment", "uid", "wanted"),
    [
        ({"STATE_DIRECTORY": "/s/tunneld", "XDG_STATE_HOME": "/x"}, 0, "/s/tunneld"),
        ({"STATE_DIRECTORY": "/s/a:/s/b"}, 1000, "/s/a"),
        ({"XDG_STATE_HOME": "/x"}, 0, "/var/lib/tunneld"),
        ({"XDG_STATE_HOME": "/x"}, 1000, "/x/tunneld"),
        ({"XDG_STATE_HOME": "x"}, 1000, "/home/eve/.local/state/tunneld"),
        ({"STATE_DIRECTORY": ""}, 1000, "/home/eve/.local/state/tunneld"),
    ],
)
def test_the_directory(environment, uid, wanted, monkeypatch):
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/eve", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert state_dir() == Path(wanted)
