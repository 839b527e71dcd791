from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.bad import BAD, GOOD, KEY_FILES, SEALED, SECOND_SEALED, A, B, after, instead, key, public
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
    *("netns", "on_loss", "routes", "endpoint", "allowed_ips"),
)
ENTRIES = st.lists(st.tuples(st.sampled_from(KEYS), SCALARS), max_size=8, unique_by=lambda entry: entry[0])
SECTIONS = st.sampled_from(["[tunnel]", "[interface]", "[network]", "[[peer]]", "[other]"])
ANY_VALUES = st.lists(st.tuples(SECTIONS, ENTRIES), max_size=5, unique_by=lambda section: section[0]).map(
    lambda sections: "\n".join(
        line for header, entries in sections for line in (header, *(f"{key} = {value}" for key, value in entries))
    ).encode()
)


@given(st.one_of(ANY_FILE, ANY_VALUES))
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
