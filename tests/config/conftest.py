"""A good configuration, and what becomes of it when it differs in a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.bad import KEY_FILES
from tunneld.config import load
from tunneld.proto.errors import ConfigErrors

FILE = """\
[tunnel]
protocol = "{protocol}"
transport = "{transport}"
listen = "{listen}"
{tunnel}
[interface]
name = "t0"
mode = "{mode}"
addresses = {addresses}
{interface}
[network]
routes = {routes}
[[peer]]
name = "a"
endpoint = {endpoint}
allowed_ips = {allowed_ips}
{peer}
"""
DEFAULTS = {
    "protocol": "plain",
    "transport": "udp",
    "listen": "[::]:55555",
    "tunnel": "",
    "mode": "tun",
    "addresses": ["10.0.0.1/24"],
    "interface": "",
    "routes": [],
    "endpoint": ["192.0.2.2:55555"],
    "allowed_ips": [],
    "peer": "",
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a configuration that differs by `changes` from a good one; returns its path."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    tmp_path.chmod(0o755)
    (tmp_path / "left.key").write_text(KEY_FILES["left.key"][0])
    (tmp_path / "left.key").chmod(0o600)
    path = tmp_path / "t.toml"

    def write(**changes) -> Path:
        path.write_text(FILE.format(**{**DEFAULTS, **changes}))
        path.chmod(0o644)
        return path

    return write


@pytest.fixture
def check(written):
    """The faults of such a configuration, each as `key: message`."""

    def faults(look_up=None, **changes) -> list[str]:
        try:
            load(written(**changes), look_up)
        except ConfigErrors as errors:
            return [f"{error.key}: {error.message}" for error in errors.errors]
        return []

    return faults
