"""The table of bad configurations, each with the very lines that the operator gets. The numbers of its rows are
fixed, so that they can be referred to; those missing concern protocols with keys, or the kernel (plan and run)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunneld.config import Endpoint, load
from tunneld.proto.errors import ConfigErrors

GOOD = """\
[tunnel]
protocol = "plain"
listen = "[::]:55555"

[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]

[[peer]]
name = "a"
endpoint = "192.0.2.2:55555"
"""
SECOND_PEER = ("", "[[peer]]", 'name = "b"', 'endpoint = "192.0.2.3:55555"')

UNUSED = 'protocol = "plain" sends everything in clear, so this would not be used; remove the line'
LATER = "this version cannot do that yet; remove the line"
ONE_PEER = 'protocol = "plain" cannot tell two peers apart; keep one [[peer]]'
MTU = "mtu: must be 576..65475, and 1280 or more with IPv6"
NAME = 'at most 15 characters, no "/" and no blank'
ITSELF = "which would route the tunnel into itself"


def after(line: int, *added: str) -> str:
    """The good file with lines added behind number `line`."""
    lines = GOOD.splitlines()
    return "\n".join([*lines[:line], *added, *lines[line:], ""])


def instead(line: int, *given: str) -> str:
    """The good file with other lines in place of number `line`."""
    lines = GOOD.splitlines()
    return "\n".join([*lines[: line - 1], *given, *lines[line:], ""])


BAD: list[tuple[str, str | bytes, list[str]]] = [
    ("4 empty", "", ["1: empty: no [tunnel] section, no [interface] section; start from a sample in configs/"]),
    ("4 no interface", '[tunnel]\nprotocol = "plain"\nlisten = "[::]:1024"\n',
     ["1: [interface]: no [interface] section; add it with a name and addresses"]),
    ("5 not UTF-8", b"[tunnel]\n\n\xff", ["3: byte 0xff at line 3; save as UTF-8"]),
    ("6 syntax", instead(7, 'addresses ["10.0.0.1/24"]'),
     ["7: column 11: expected '=' after a key in a key/value pair; write key = value"]),
    ("7 key twice", after(6, "mtu = 1400", "mtu = 1420"), ["8: mtu: already set in line 7; keep one of the two"]),
    ("8 section twice", after(11, "", "[interface]", "mtu = 1400"),
     ["13: [interface]: already opened in line 5; put its keys there"]),
    ("9 unknown key", after(2, 'listn = "x"'), ['3: "listn": unknown key; did you mean "listen"?']),
    ("9 key of another section", after(10, "mtu = 1400"), ['11: "mtu": unknown key; it belongs below [interface]']),
    ("9 key of no section", 'listen = "[::]:1024"\n' + instead(3),
     ['1: "listen": stands before the first section; move it below [tunnel]']),
    ("10 unknown section", instead(5, "[interfaces]"),
     ["5: [interfaces]: unknown section; did you mean [interface]?"]),
    ("10 unknown section with the endpoint", instead(9, "[[peers]]").replace('listen = "[::]:55555"\n', ""),
     ["8: [peers]: unknown section; did you mean [[peer]]?"]),
    ("10 single brackets", instead(9, "[peer]"), ["9: [peer]: write [[peer]] with double brackets"]),
    ("10 double brackets", instead(1, "[[tunnel]]"), ["1: [[tunnel]]: write [tunnel] with single brackets, once"]),
    ("11 text for a number", after(6, 'mtu = "1420"'),
     ['7: mtu: expected a number, got "1420"; write it without quotes']),
    ("11 three wrong types", after(6, "mtu = 1.5", "mode = 3", 'persist = "yes"'),
     ["7: mtu: expected a whole number, got the number 1.5; write digits only",
      '8: mode: expected text, got the number 3; write "3"',
      '9: persist: expected true or false, got "yes"; write it without quotes']),
    ("11 text for a list", instead(7, 'addresses = "10.0.0.1/24"'),
     ['7: addresses: expected a list; write addresses = ["10.0.0.1/24"]']),
    ("11 a number for a section", 'interface = 3\n[tunnel]\nprotocol = "plain"\nlisten = "[::]:1024"\n',
     ["1: interface: expected a section; write [interface] and its keys below it"]),
    ("12-17 key file", after(2, 'private_key_file = "office.key"'), [f"3: private_key_file: {UNUSED}"]),
    ("18 key inline", after(2, 'private_key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="'),
     [f"3: private_key: {UNUSED}"]),
    ("19, 23 public key", after(10, 'public_key = "AAAA"'), [f"11: public_key: {UNUSED}"]),
    ("21 public key twice", after(11, 'public_key = "A"', *SECOND_PEER, 'public_key = "A"'),
     [f"12: public_key: {UNUSED}", f"14: [[peer]]: {ONE_PEER}", f"17: public_key: {UNUSED}"]),
    ("22 name twice", after(11, "", "[[peer]]", 'name = "a"', 'endpoint = "192.0.2.3:55555"'),
     [f"13: [[peer]]: {ONE_PEER}", '14: name: name "a" already used in line 10; choose another']),
    ("24-26 preshared key", after(11, 'preshared_key_file = "a.psk"'), [f"12: preshared_key_file: {UNUSED}"]),
    ("27 port 0", instead(3, 'listen = "[::]:0"'), ['3: listen: port "0": must be 1..65535']),
    ("27 port 70000", instead(3, 'listen = "0.0.0.0:70000"'), ['3: listen: port "70000": must be 1..65535']),
    ("31 no port", instead(11, 'endpoint = "vpn.example.org"'),
     ['11: endpoint: "vpn.example.org" has no port; write vpn.example.org:55555']),
    ("32 no brackets", instead(11, "endpoint = [", '  "192.0.2.2:55555",', '  "2001:db8::1:51820",', "]"),
     ['13: endpoint: "2001:db8::1:51820": write [2001:db8::1]:51820']),
    ("34 this host", instead(11, 'endpoint = "127.0.0.1:55555"'),
     ["11: endpoint: 127.0.0.1:55555 is this host itself; write the address of the peer"]),
    ("35 inside allowed_ips", after(11, 'allowed_ips = ["192.0.2.0/24"]'),
     [f"11: endpoint: 192.0.2.2 lies inside allowed_ips 192.0.2.0/24, {ITSELF}; take 192.0.2.2 out of it"]),
    ("35 inside the own subnet", instead(11, 'endpoint = "10.0.0.2:55555"'),
     [f"11: endpoint: 10.0.0.2 lies inside the subnet of addresses 10.0.0.1/24, {ITSELF}; take 10.0.0.2 out of it"]),
    ("36 no prefix", after(11, 'allowed_ips = ["10.0.0.0/33"]'),
     ['12: allowed_ips: "10.0.0.0/33" is not a prefix; write for example "192.168.0.0/24"']),
    ("37 host bits", after(11, "allowed_ips = [", '  "10.1.0.0/16",', '  "10.0.0.5/24",', "]"),
     ["14: allowed_ips: 10.0.0.5/24 has host bits set; did you mean 10.0.0.0/24 or 10.0.0.5/32?"]),
    ("38 prefix in two peers",
     after(11, 'allowed_ips = ["10.1.0.0/16"]', *SECOND_PEER, 'allowed_ips = ["10.1.0.0/16"]'),
     [f"14: [[peer]]: {ONE_PEER}",
      '17: allowed_ips: 10.1.0.0/16 in "a" (line 12) and "b" (line 17); keep it in one place']),
    ("40 no address", instead(7),
     ["5: addresses: interface has no address; set addresses, or addresses = [] if it needs none"]),
    ("42 mtu small", after(6, "mtu = 575"), [f"7: {MTU}"]),
    ("42 mtu small for IPv6", instead(7, "mtu = 1279", 'addresses = ["fd00::1/64"]'), [f"7: {MTU}"]),
    ("42 mtu large", after(6, "mtu = 65476"), [f"7: {MTU}"]),
    ("44 name long", instead(6, 'name = "sixteen-letters!"'), [f'6: name: "sixteen-letters!": {NAME}']),
    ("44 name with slash", instead(6, 'name = "a/b"'), [f'6: name: "a/b": {NAME}']),
    ("44 name with blank", instead(6, 'name = "a b"'), [f'6: name: "a b": {NAME}']),
    ("46 tap with allowed_ips", after(6, 'mode = "tap"') + 'allowed_ips = ["10.9.0.0/16"]\n',
     ["13: allowed_ips: tap peers use macs, not allowed_ips; remove the line, and write routes in [network]"]),
    ("47-49 wireguard", instead(2, 'protocol = "wireguard"', 'transport = "tcp"', 'cipher = "aes-256-gcm"'),
     ['2: protocol: "wireguard" is not in this version; write protocol = "plain" (everything goes in clear)']),
    ("47 no protocol", instead(2),
     ['1: protocol: missing; write protocol = "plain" in [tunnel] (everything goes in clear)']),
    ("50 nobody can start", instead(3).replace('endpoint = "192.0.2.2:55555"\n', ""),
     ["8: endpoint: nobody can start: no listen and no endpoint; set one of the two"]),
    ("51 plain with keys, psk and cipher",
     after(2, 'cipher = "aes-256-gcm"', 'private_key_file = "k"') + 'preshared_key_file = "p"\n',
     [f"3: cipher: {UNUSED}", f"4: private_key_file: {UNUSED}", f"14: preshared_key_file: {UNUSED}"]),
    ("52 keepalive", after(11, "keepalive = 0.1"), [f"12: keepalive: {LATER}"]),
    ("53 table", after(7, "[network]", "table = 51820"), [f"9: table: {LATER}"]),
    ("55 kill switch", after(7, "[network]", "kill_switch = true"), [f"9: kill_switch: {LATER}"]),
    ("later keys", after(3, 'netns = "outer"') + "pin_endpoint = true\n[bridge]\nstorm = 1\n[log]\n[metrics]\n",
     [f"4: netns: {LATER}", f"13: pin_endpoint: {LATER}",
      *(f"{line}: [{section}]: this version cannot do that yet; remove the section"
        for line, section in ((14, "bridge"), (16, "log"), (17, "metrics")))]),
    ("auto", after(2, 'transport = "auto"'),
     ['3: transport: this version cannot choose between transports; write "udp" or "tcp"']),
    ("terminal codes", instead(10, 'name = "\\u001b[2J"', '"\\u001b" = 1'),
     [r'10: name: "\x1b[2J": 1 to 64 printable characters, no blank at the ends',
      r'11: "\x1b": unknown key; remove it, or see tunneld.toml(5)']),
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "left.toml"


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o644)


@pytest.mark.parametrize(("content", "faults"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_configuration_is_refused_with_one_line_for_each_fault(path, content, faults):
    write(path, content)
    with pytest.raises(ConfigErrors) as refusal:
        load(path)
    assert str(refusal.value).splitlines() == [f"{path}:{fault}" for fault in faults]


@pytest.mark.parametrize("row", BAD[::6], ids=[row[0] for row in BAD[::6]])
def test_the_command_prints_those_lines_and_nothing_else(path, row):
    _, content, faults = row
    write(path, content)
    checked = _check(path)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr.splitlines() == [f"{path}:{fault}" for fault in faults]


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
