from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tunneld.keys import load_private_key
from tunneld.proto.errors import ConfigError

UNIT = Path(__file__).parents[1] / "systemd" / "tunneld@.service"
BINARY = "/usr/local/bin/tunneld"
EXPOSURE_MAX = 2.0


@pytest.fixture
def analyze(tmp_path):
    """analyze(words…) of the unit with a binary that exists: `verify` looks for it."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed: apt-get install systemd")
    copy = tmp_path / UNIT.name

    def run(*words: str, change: tuple[str, str] = ("", "")) -> subprocess.CompletedProcess[str]:
        copy.write_text(UNIT.read_text().replace(BINARY, sys.executable).replace(*change))
        return subprocess.run(["systemd-analyze", *words, str(copy)], capture_output=True, text=True, check=False)

    return run


def test_systemd_accepts_the_unit(analyze):
    done = analyze("verify", "--man=no")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_check_would_see_a_mistake(analyze):
    assert "RestartSecs" in analyze("verify", "--man=no", change=("RestartSec=", "RestartSecs=")).stderr


def test_the_exposure_is_below_the_release_gate(analyze):
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}")

    assert done.returncode == 0, done.stdout
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) <= EXPOSURE_MAX


def test_the_unit_says_what_the_daemon_counts_on():
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    service = parser["Service"]

    assert service["Type"] == "notify"
    assert service["ExecStart"] == f"{BINARY} run %i"
    assert service["ExecStopPost"] == f"{BINARY} down --stopped %i"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["DeviceAllow"] == "/dev/net/tun rw"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert service["RuntimeDirectory"] == "tunneld"
    assert service["StateDirectory"] == "tunneld"
    assert service["LimitCORE"] == "0"
    assert service["LoadCredential"] == "%i.key:/etc/tunneld/%i.key"


def test_a_key_that_does_not_exist_is_an_empty_credential_and_its_error_says_so(tmp_path, monkeypatch):
    default = re.search(r"^SetCredential=%i\.key:(.*)$", UNIT.read_text(), flags=re.M)[1]
    credential = tmp_path / "office.key"
    credential.write_text(default.encode().decode("unicode_escape"))
    credential.chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"empty; create the file of LoadCredential=office\.key with tunneld genkey"
    ):
        load_private_key("office.key", tmp_path)
