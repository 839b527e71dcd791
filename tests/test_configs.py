"""The sample configurations do what their comments say."""

from __future__ import annotations

import pytest

from tests.samples import PLACEHOLDER, SAMPLES, install
from tunneld.config import load
from tunneld.proto.errors import ConfigErrors


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """Installs a sample, whatever the umask is, and loads it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    def installed(name: str):
        tmp_path.chmod(0o755)
        path = tmp_path / name
        path.write_text(install(name, tmp_path))
        path.chmod(0o644)
        return load(path)

    return installed


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_has_neither_faults_nor_warnings(sample, path):
    assert sample(path.name).warnings == ()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_refused_for_each_key_that_was_not_put_in(tmp_path, path):
    text = path.read_text()
    left = tmp_path / path.name
    left.write_text(text)
    left.chmod(0o644)
    keys = len(PLACEHOLDER.findall(text))
    assert ("plain" in path.name) == (keys == 0)
    if keys:
        with pytest.raises(ConfigErrors) as refusal:
            load(left, read_keys=False)
        assert [error.key for error in refusal.value.errors] == ["public_key"] * keys


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_of_a_sealed_link_takes_ten_lines(side):
    lines = (SAMPLES[0].parent / f"point-to-point-{side}.toml").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith("#")]) == 10


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("point-to-point-left", "point-to-point-right", ("tunneld", "udp", "chacha20-poly1305", "tun")),
        ("tcp-server", "tcp-client", ("tunneld", "tcp", "aes-256-gcm", "tun")),
        ("bridge-left", "bridge-right", ("tunneld", "tcp", "chacha20-poly1305", "tap")),
        ("hub", "hub-member", ("tunneld", "udp", "chacha20-poly1305", "tun")),
        ("plain-left", "plain-right", ("plain", "tcp", "chacha20-poly1305", "tun")),
    ],
)
def test_the_two_ends_of_a_link_fit(sample, one, other, how):
    one, other = sample(f"{one}.toml"), sample(f"{other}.toml")
    for end in (one, other):
        assert (end.tunnel.protocol, end.tunnel.transport, end.tunnel.cipher, end.interface.mode) == how
    assert one.interface.mtu == other.interface.mtu
    assert one.tunnel.listen.port == other.peer.endpoints[0].port
    for mine, theirs in ((one, other), (other, one)) if one.tunnel.sealed else ():
        assert theirs.peer.public_key == mine.tunnel.private_key.public_key()
        if theirs.interface.mode == "tun":
            assert mine.interface.addresses[0].ip in theirs.peer.allowed_ips[0]
            assert mine.interface.addresses[0].network == theirs.interface.addresses[0].network


def test_a_bridge_carries_full_frames(sample):
    for side in ("left", "right"):
        interface = sample(f"bridge-{side}.toml").interface
        assert (interface.bridge, interface.mtu) == ("br0", 1500)


def test_a_hub_tells_its_members_apart(sample):
    hub = sample("hub.toml")
    assert [(peer.name, peer.keepalive, peer.preshared_key is not None) for peer in hub.peers] == [
        ("notebook", 0, False),
        ("berlin", 25, True),
        ("telephone", 0, False),
    ]


def test_a_wireguard_is_met_as_wg_quick_would(sample):
    config = sample("wireguard.toml")
    assert (config.tunnel.protocol, config.tunnel.transport, config.interface.mtu) == ("wireguard", "udp", 1420)
