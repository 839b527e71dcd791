from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.bad import BAD, GOOD, KEY_FILES, PRIVATE, SEALED, SECOND_SEALED, A, B, after, public
from tunneld.config import Endpoint, load
from tunneld.proto.errors import ConfigErrors


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where a configuration may be written, beside its key files."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    tmp_path.chmod(0o755)
    for name, (content, mode) in KEY_FILES.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    return tmp_path / "left.toml"


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o644)


@pytest.mark.parametrize(("content", "faults"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_configuration_is_refused_with_one_line_for_each_fault(path, content, faults):
    write(path, content)
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert str(refusal.value).splitlines() == lines(path, faults)


@pytest.mark.parametrize("row", BAD[::6], ids=[row[0] for row in BAD[::6]])
def test_the_command_prints_those_lines_and_nothing_else(path, row):
    _, content, faults = row
    write(path, content)
    checked = _check(path)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr.splitlines() == lines(path, faults)


def lines(path: Path, faults: list[str]) -> list[str]:
    """What the command prints for the faults of the table."""
    return [f"{path}:{fault.replace('DIR', str(path.parent))}" for fault in faults]


def test_a_file_that_cannot_be_read_is_one_line(path):
    """Rows 1, 3 and 56."""
    missing = _check(path)
    assert (missing.returncode, missing.stderr) == (2, f"{path}: not found; create it or give another file\n")
    directory = _check(path.parent)
    assert (directory.returncode, directory.stderr) == (2, f"{path.parent}: is a directory; give a file\n")
    write(path, GOOD)
    path.chmod(0o666)
    writable = _check(path)
    message = f"{path}: writable by group and others, who could change what runs; chmod go-w {path}\n"
    assert (writable.returncode, writable.stderr) == (2, message)


def test_faults_of_the_file_and_of_its_text_come_together(path):
    write(path, after(6, "mtu = 1"))
    path.chmod(0o664)
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert [error.line for error in refusal.value.errors] == [0, 7]


def test_the_name_of_the_file_must_do_as_the_name_of_the_tunnel(tmp_path):
    path = tmp_path / "my tunnel.toml"
    write(path, GOOD)
    with pytest.raises(ConfigErrors, match="its name is the tunnel's; use letters, digits"):
        load(path)


def test_a_good_configuration_with_all_its_keys(path):
    write(path, """\
        tunnel = { protocol = "plain", transport = "tcp", listen = "0.0.0.0:1024" }
        [interface]
        name = "tap0"
        mode = "tap"
        addresses = ["10.0.0.1/24", "fd00::1/64"]
        mtu = 1500
        mac = "02:00:00:00:00:01"
        txqueuelen = 1000
        bridge = "br0"
        persist = true
        netns = "work"
        on_loss = "stop"
        [network]
        routes = ["10.1.0.0/16"]
        [[peer]]
        name = "right"
        endpoint = ["192.0.2.2:1", "vpn.example.org:2"]
        """)  # fmt: skip
    config = load(path)
    assert (config.name, config.path) == ("left", path)
    assert config.tunnel.transport == "tcp"
    assert config.tunnel.listen == Endpoint("0.0.0.0", 1024)
    interface = config.interface
    assert (interface.name, interface.mode, interface.bridge, interface.netns) == ("tap0", "tap", "br0", "work")
    assert (interface.mtu, interface.mac, interface.txqueuelen) == (1500, "02:00:00:00:00:01", 1000)
    assert (interface.persist, interface.on_loss) == (True, "stop")
    assert [str(address) for address in interface.addresses] == ["10.0.0.1/24", "fd00::1/64"]
    assert [str(route) for route in config.network.routes] == ["10.1.0.0/16"]
    assert config.peer.endpoints == (Endpoint("192.0.2.2", 1), Endpoint("vpn.example.org", 2))
    assert config.warnings == ()


def test_a_good_configuration_with_all_the_keys_of_a_sealed_protocol(path):
    write(path, f"""\
        [tunnel]
        protocol = "tunneld"
        transport = "tcp"
        cipher = "aes-256-gcm"
        private_key_file = "{path.parent}/left.key"
        listen = "[::]:55555"
        [interface]
        name = "tun0"
        addresses = ["10.0.0.1/24"]
        [network]
        routes = ["10.2.1.0/24"]
        [[peer]]
        name = "a"
        public_key = "{A}"
        preshared_key_file = "a.psk"
        endpoint = "vpn.example.org:55555"
        allowed_ips = ["10.0.0.2/32", "0.0.0.0/0"]
        keepalive = 0
        pin_endpoint = true
        [[peer]]
        name = "b"
        public_key = "{B}"
        allowed_ips = ["10.0.0.3/32", "10.2.0.0/16"]
        keepalive = 65535
        """)  # fmt: skip
    config = load(path)
    assert (config.tunnel.protocol, config.tunnel.sealed, config.tunnel.cipher) == ("tunneld", True, "aes-256-gcm")
    assert str(config.tunnel.private_key.public_key()) == public(PRIVATE)
    first, second = config.peers
    assert config.peer is first
    assert (str(first.public_key), str(second.public_key)) == (A, B)
    assert (first.preshared_key.raw, second.preshared_key) == (bytes([10]) * 32, None)
    assert (first.keepalive, second.keepalive) == (0, 65_535)
    assert (first.pin_endpoint, second.pin_endpoint) == (True, False)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("protocol", "mode", "mtu"),
    [("tunneld", "tun", 1400), ("tunneld", "tap", 1380), ("wireguard", "tun", 1420)],
)
def test_what_is_left_out_of_a_sealed_tunnel_has_a_default(path, protocol, mode, mtu):
    text = SEALED if mode == "tun" else "\n".join(SEALED.splitlines()[:12])
    write(path, after(6, f'mode = "{mode}"', of=after(1, f'protocol = "{protocol}"', of=text)))
    config = load(path)
    assert (config.tunnel.transport, config.tunnel.cipher) == ("udp", "chacha20-poly1305")
    assert config.interface.mtu == mtu
    assert (config.peer.keepalive, config.peer.pin_endpoint, config.peer.preshared_key) == (25, False, None)
    assert config.warnings == ()


def test_the_default_protocol_is_tunneld(path):
    write(path, SEALED)
    assert load(path).tunnel.protocol == "tunneld"


def test_a_peer_that_comes_to_us_keeps_its_own_way_open(path):
    write(path, SEALED + SECOND_SEALED)
    assert [peer.keepalive for peer in load(path).peers] == [25, 0]


def test_keys_are_read_only_where_they_are_asked_for(path):
    write(path, SEALED.replace("left.key", "no.key") + 'preshared_key_file = "no.psk"\n')
    config = load(path, read_keys=False)
    assert (config.tunnel.private_key, config.peer.preshared_key) == (None, None)
    assert str(config.peer.public_key) == A


@pytest.mark.parametrize("row", BAD, ids=[row[0] for row in BAD])
def test_no_fault_shows_a_secret(path, row):
    _, content, _ = row
    secrets = [text for text, _ in KEY_FILES.values() if len(text) > 20]
    write(path, content)
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert [secret for secret in secrets if secret[:20] in str(refusal.value)] == []


def test_no_record_shows_a_secret(path):
    write(path, SEALED + 'preshared_key_file = "a.psk"\n')
    config = load(path)
    assert config.tunnel.private_key is not None
    assert config.peer.preshared_key is not None
    assert "Key(" not in repr(config).replace("PublicKey(", "")


@pytest.mark.parametrize(("mode", "mtu"), [("tun", 1400), ("tap", 1380)])
def test_what_is_left_out_has_a_default(path, mode, mtu):
    write(path, after(6, f'mode = "{mode}"'))
    config = load(path)
    assert (config.tunnel.transport, config.interface.mtu, config.interface.on_loss) == ("udp", mtu, "repair")
    assert (config.interface.persist, config.interface.mac, config.interface.bridge) == (False, None, None)
    assert (config.peer.allowed_ips, config.network.routes) == ((), ())


def test_who_only_listens_needs_no_peer_section(path):
    write(path, "\n".join(GOOD.splitlines()[:8]))
    assert load(path).peer.name == "peer"


WORDS = st.sampled_from(
    [
        *GOOD.split(),
        *SEALED.split(),
        "[network]",
        "mtu",
        "routes",
        "mode",
        '"tap"',
        "1400",
        "''",
        "[[peer]]",
        "[",
        "]",
        "\n",
        "true",
        "=",
    ]
)
ANY_FILE = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    st.lists(WORDS, max_size=40).map(lambda words: " ".join(words).encode()),
)
SCALARS = st.one_of(
    st.text(max_size=20).map(lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.sampled_from(["inf", "nan", "1.5", "true", "1979-05-27", "07:32:00", "[]", "[[]]", "{}", "[{}]", '"::1/128"']),
    st.sampled_from(['"plain"', '"wireguard"', '"tap"', '"left.key"', '"a.psk"', f'"{A}"', f'"{public(PRIVATE)}"']),
)
KEYS = (
    *(
        "protocol",
        "transport",
        "listen",
        "name",
        "mode",
        "addresses",
        "mtu",
        "mac",
        "txqueuelen",
        "bridge",
        "persist",
    ),
    *("netns", "on_loss", "routes", "endpoint", "allowed_ips", "cipher", "private_key", "private_key_file"),
    *("public_key", "preshared_key", "preshared_key_file", "keepalive", "pin_endpoint"),
)
ENTRIES = st.lists(st.tuples(st.sampled_from(KEYS), SCALARS), max_size=8, unique_by=lambda entry: entry[0])
SECTIONS = st.sampled_from(["[tunnel]", "[interface]", "[network]", "[[peer]]", "[other]"])
ANY_VALUES = st.lists(st.tuples(SECTIONS, ENTRIES), max_size=5, unique_by=lambda section: section[0]).map(
    lambda sections: "\n".join(
        line for header, entries in sections for line in (header, *(f"{key} = {value}" for key, value in entries))
    ).encode()
)


@given(st.one_of(ANY_FILE, ANY_VALUES))
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_configuration_or_lines_that_say_why_not(path, content):
    write(path, content)
    try:
        load(path)
    except ConfigErrors as refusal:
        lines = [str(error) for error in refusal.errors]
    else:
        return
    assert lines
    assert all(line.isprintable() for line in lines)


def _check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunneld", "check", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)
