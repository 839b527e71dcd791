"""Faults of the kernel get the lines of the file."""

from __future__ import annotations

import pytest

from tunneld.config.locate import locate
from tunneld.proto.errors import ConfigError, ConfigErrors

TEXT = """\
[tunnel]
listen = "[::]:55555"
[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]
[network]
routes = ["10.20.0.0/16"]
[[peer]]
allowed_ips = ["10.20.0.0/16"]
[[peer]]
allowed_ips = [
  "10.2.0.0/16",
  "FD00:0::/64",
]
"""


@pytest.mark.parametrize(
    ("key", "line"), [("listen", 2), ("name", 4), ("addresses", 5), ("bridge", 3), ("routes", 7), ("allowed_ips", 9)]
)
def test_the_line_of_a_key_or_of_its_section(key, line, tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(TEXT)
    (found,) = locate(path, ConfigErrors([ConfigError(str(path), 0, key, "is in the way")])).errors
    assert str(found) == f"{path}:{line}: {key}: is in the way"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("there is a route already: fd00::/64 dev eth1; delete it, or take fd00::/64 out of it", 13),
        ("take 10.2.0.0/16, for example, out of it", 12),
        ("take 10.20.0.0/16 out of it", 9),
        ("take 10.2.0.0/17 out of it", 9),
    ],
)
def test_of_several_peers_the_one_with_the_prefix(message, line, tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(TEXT)
    (found,) = locate(path, ConfigErrors([ConfigError(str(path), 0, "allowed_ips", message)])).errors
    assert found.line == line


@pytest.mark.parametrize("peer", ["peer = 3", "peer = [3]", "[[peer]]", "[[peer]]\nallowed_ips = [3]"])
def test_a_file_that_is_no_configuration_any_more_gives_the_line_it_can(peer, tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(f"{peer}\n")
    (found,) = locate(path, ConfigErrors([ConfigError(str(path), 0, "allowed_ips", "take 10.2.0.0/16")])).errors
    assert found.line in (1, 2)


@pytest.mark.parametrize("content", [None, "[tunnel"])
def test_a_file_that_went_or_changed_meanwhile_hides_no_fault(content, tmp_path):
    path = tmp_path / "office.toml"
    if content is not None:
        path.write_text(content)
    faults = ConfigErrors([ConfigError(str(path), 0, "name", "is in the way")])
    assert locate(path, faults) is faults
