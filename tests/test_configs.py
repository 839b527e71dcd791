"""The sample configurations do what their comments say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tunneld.config import load

SAMPLES = sorted((Path(__file__).parent.parent / "configs").iterdir())


@pytest.fixture
def sample(tmp_path):
    """A sample as an operator would install it, whatever the umask of the checkout was."""

    def installed(name: str):
        tmp_path.chmod(0o755)
        path = Path(shutil.copyfile(SAMPLES[0].parent / name, tmp_path / name))
        path.chmod(0o644)
        return load(path)

    return installed


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_has_neither_faults_nor_warnings(sample, path):
    assert sample(path.name).warnings == ()


def test_the_two_ends_of_a_point_to_point_link_fit(sample):
    left, right = sample("point-to-point-left.toml"), sample("point-to-point-right.toml")
    for one, other in ((left, right), (right, left)):
        assert (one.tunnel.transport, one.interface.mode) == ("udp", "tun")
        assert one.peer.endpoints[0].port == other.tunnel.listen.port
        assert other.interface.addresses[0].ip in one.peer.allowed_ips[0]
        assert one.interface.addresses[0].network == other.interface.addresses[0].network


def test_the_two_ends_of_a_bridge_fit(sample):
    left, right = sample("bridge-left.toml"), sample("bridge-right.toml")
    assert left.tunnel.listen.port == right.peer.endpoints[0].port
    for end in (left, right):
        assert (end.tunnel.transport, end.interface.mode) == ("tcp", "tap")
        assert (end.interface.bridge, end.interface.mtu) == ("br0", 1500)
