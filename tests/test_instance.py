from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tunneld import instance
from tunneld.instance import AlreadyRunsError

HOLDER = """
import sys
from pathlib import Path
from tunneld import instance
with instance.hold(Path(sys.argv[1]), "office"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_name_is_held_once(tmp_path):
    assert not instance.is_held(tmp_path, "office")
    with instance.hold(tmp_path, "office"):
        assert instance.is_held(tmp_path, "office")
        line = rf"^office runs already \(pid {os.getpid()}\); stop it first: tunneld down office$"
        with pytest.raises(AlreadyRunsError, match=line), instance.hold(tmp_path, "office"):
            pass
        assert instance.is_held(tmp_path, "office")
    assert not instance.is_held(tmp_path, "office")
    with instance.hold(tmp_path, "office"):
        pass


def test_names_do_not_disturb_each_other(tmp_path):
    with instance.hold(tmp_path, "office"), instance.hold(tmp_path, "home"):
        assert instance.is_held(tmp_path, "home")


def test_asking_does_not_take_the_name(tmp_path):
    with instance.hold(tmp_path, "office"):
        pass
    assert not instance.is_held(tmp_path, "office")
    with instance.hold(tmp_path, "office"):
        pass


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunsError, match=f"pid {process.pid}"), instance.hold(tmp_path, "office"):
            pass
        process.kill()
        process.wait()
    assert not instance.is_held(tmp_path, "office")
    with instance.hold(tmp_path, "office"):
        assert (tmp_path / "office.lock").read_text() == f"{os.getpid()}\n"


def test_a_child_does_not_inherit_the_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as process:
        process.communicate("\n")
    with instance.hold(tmp_path, "office"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    try:
        assert not instance.is_held(tmp_path, "office")
    finally:
        child.communicate("\n")


def test_the_lock_is_nobody_elses_to_read(tmp_path):
    with instance.hold(tmp_path, "office"):
        assert (tmp_path / "office.lock").stat().st_mode & 0o777 == 0o600


def test_a_missing_directory_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError), instance.hold(tmp_path / "missing", "office"):
        pass
    assert not instance.is_held(tmp_path / "missing", "office")
