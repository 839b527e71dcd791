"""The way back on disk: written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
from ipaddress import ip_interface

import pytest

from tunneld.netcfg.journal import Journal, Record
from tunneld.netcfg.operation import AddressDel, LinkSet

RECORD = Record(
    "tun0",
    "work",
    {"tun0": 7},
    (AddressDel("tun0", ip_interface("10.0.0.1/24")), LinkSet("tun0", "mtu", 1500, 1400)),
)


def test_what_is_written_is_read(tmp_path):
    journal = Journal(tmp_path, "office")
    assert journal.read() is None
    journal.write(Record("other"))
    journal.write(RECORD)
    assert journal.read() == RECORD
    assert [entry.name for entry in tmp_path.iterdir()] == ["office.undo"]
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    journal.remove()
    journal.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2}',
        '{"version": 1}',
        json.dumps({"version": 1, "interface": "a", "netns": None, "links": {}, "undo": [{"operation": "Format"}]}),
    ],
)
def test_a_journal_that_makes_no_sense_is_one_warning(tmp_path, text, caplog):
    journal = Journal(tmp_path, "office")
    journal.path.write_text(text)
    assert journal.read() is None
    (line,) = caplog.messages
    assert "only what carries our tags is swept" in line


def test_a_full_disk_is_one_warning_and_leaves_no_older_journal(tmp_path, caplog, namespaces):
    caplog.set_level(logging.INFO)
    full = tmp_path / "full"
    full.mkdir()
    # The whole test process has a mount namespace of its own.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(full)], check=True)
    try:
        journal = Journal(full, "office")
        journal.write(Record("older"))
        assert journal.read() is not None
        fill(full)
        journal.write(RECORD)
        assert list(full.glob("office*")) == []
    finally:
        subprocess.run(["umount", str(full)], check=True)
    (line,) = caplog.messages
    assert "No space left on device" in line


def fill(path):
    block = bytes(4096)
    with open(path / "ballast", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines([block] * 100)
