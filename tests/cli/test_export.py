"""From a configuration to a file of wg-quick: all that it can hold, what it cannot, and no key unless asked for."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import sys

import pytest

from tunneld.cli.main import main
from tunneld.config import load

TUNNELD = [sys.executable, "-m", "tunneld"]

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
BERLIN = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PARIS = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

OFFICE = f"""\
[tunnel]
protocol = "wireguard"
private_key_file = "office.key"
listen = "[::]:51820"
[interface]
name = "tun0"
addresses = ["10.7.0.1/24", "fd07::1/64"]
[[peer]]
name = "berlin"
public_key = "{BERLIN}"
preshared_key_file = "berlin.psk"
endpoint = "berlin.example.org:51820"
allowed_ips = ["10.7.0.2/32", "10.20.0.0/16"]
[[peer]]
name = "paris"
public_key = "{PARIS}"
allowed_ips = ["10.7.0.3/32"]
"""

BODY = f"""\
[Interface]
ListenPort = 51820
Address = 10.7.0.1/24
Address = fd07::1/64
MTU = 1420

[Peer]
# Name = berlin
PublicKey = {BERLIN}
AllowedIPs = 10.7.0.2/32, 10.20.0.0/16
Endpoint = berlin.example.org:51820
PersistentKeepalive = 25

[Peer]
# Name = paris
PublicKey = {PARIS}
AllowedIPs = 10.7.0.3/32
"""


@pytest.fixture
def office(tmp_path, monkeypatch):
    """office(text): text as office.toml, with its keys beside it, in a directory in which this process is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    tmp_path.chmod(0o755)

    def write(text: str = OFFICE) -> str:
        for name, content in (("office.toml", text), ("office.key", PRIVATE), ("berlin.psk", PRESHARED)):
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o600)
        return "./office.toml"

    return write


def test_without_keys_it_says_where_they_go(office, capfd):
    assert main(["export", "--wg", office()]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out == (
        "# Made of office.toml by tunneld export; save it as tun0.conf, mode 0600.\n"
        "# The keys are not in it; export --wg --keys puts them in. From files wg-quick reads them by these lines:\n"
        "# PostUp = wg set %i private-key FILE\n"
        f"# PostUp = wg set %i peer {BERLIN} preshared-key FILE\n" + BODY
    )


def test_with_keys_it_is_whole(office, capfd):
    assert main(["export", "--wg", "--keys", office()]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    wanted = BODY.replace("[Interface]", f"[Interface]\nPrivateKey = {clamped(PRIVATE)}")
    wanted = wanted.replace(f"{BERLIN}\n", f"{BERLIN}\nPresharedKey = {PRESHARED}\n")
    assert printed.out == f"# Made of office.toml by tunneld export; save it as tun0.conf, mode 0600.\n{wanted}"


def clamped(key: str) -> str:
    raw = bytearray(base64.b64decode(key))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return base64.b64encode(raw).decode()


def test_what_is_imported_again_is_the_same(office, tmp_path, capfd):
    before = load(tmp_path / office())
    assert main(["export", "--wg", "--keys", "./office.toml"]) == 0
    (tmp_path / "tun0.conf").write_text(capfd.readouterr().out)
    assert main(["import", "tun0.conf"]) == 0
    after = load(tmp_path / "tun0.toml")
    for part in ("tunnel", "interface", "network", "peers"):
        assert getattr(after, part) == getattr(before, part)


def test_keys_are_not_shown_on_a_terminal(office):
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [*TUNNELD, "export", "--wg", "--keys", office()], stdout=terminal, stderr=subprocess.PIPE, check=False
        )
        os.write(terminal, b"end")
        shown = os.read(controller, 100)
    finally:
        os.close(terminal)
        os.close(controller)
    example = b"(umask 077; tunneld export --wg --keys NAME >FILE)"
    why = b"tunneld export: keys are not shown on a terminal; write them to a file: " + example + b"\n"
    assert (done.returncode, done.stderr, shown) == (2, why, b"end")


@pytest.mark.parametrize(
    ("mode", "keys", "warned"), [(0o644, True, True), (0o600, True, False), (0o644, False, False)]
)
def test_a_file_that_others_can_read_is_warned_about(office, tmp_path, mode, keys, warned):
    path = tmp_path / "tun0.conf"
    path.touch()
    path.chmod(mode)
    command = [*TUNNELD, "export", "--wg", *(["--keys"] if keys else []), office()]
    with path.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr.startswith("tunneld: warning: the key goes to a file of mode 0644") is warned
    assert ("PrivateKey" in path.read_text()) is keys


def test_a_full_disk_is_one_line_and_a_failure(office):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TUNNELD, "export", "--wg", office()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "No space left on device; what is there is no configuration, try again elsewhere"
    assert (done.returncode, done.stderr) == (1, f"tunneld: standard output: {said}\n")


# --- what wg cannot do


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("[::]:51820", "127.0.0.1:51820"), "listen: wg-quick listens on every address, not on 127.0.0.1 alone"),
        (('"tun0"', '"tun0"\nnetns = "work"'), "netns: wg-quick has no such setting"),
        (('"tun0"', '"tun0"\ntxqueuelen = 9'), "txqueuelen: wg-quick has no such setting"),
        (('"tun0"', '"tun0"\npersist = true'), "persist: wg-quick has no such setting"),
        (('"berlin"', '"berlin"\npin_endpoint = true'), "pin_endpoint: wg-quick has no such setting"),
        (
            ('"berlin.example.org:51820"', '["[2001:db8::1]:51820", "berlin.example.org:51820"]'),
            'endpoint: wg-quick takes one; peer "berlin" has [2001:db8::1]:51820 now',
        ),
        (
            ("10.7.0.3/32", "::/0"),
            "allowed_ips: wg-quick makes a default route of ::/0; Table = off prevents that",
        ),
    ],
)
def test_what_is_different_with_wg_is_told(office, change, line, capfd):
    assert main(["export", "--wg", office(OFFICE.replace(*change))]) == 0
    printed = capfd.readouterr()
    assert printed.err == f"office.toml: {line}\n"
    assert "[Peer]" in printed.out


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ([('"wireguard"', '"tunneld"')], ""),
        ([('"wireguard"', '"tunneld"\ntransport = "tcp"')], ', which loses transport = "tcp"'),
        (
            [('"wireguard"', '"tunneld"\ncipher = "aes-256-gcm"'), ('"tun0"', '"tun0"\nmode = "tap"')],
            ', which loses mode = "tap" and cipher = "aes-256-gcm"',
        ),
    ],
)
def test_another_protocol_is_one_line(office, changes, loss, capfd):
    text = OFFICE
    for change in changes:
        text = text.replace(*change)
    if "tap" in text:
        text = "\n".join(line for line in text.splitlines() if "allowed_ips" not in line)
    assert main(["export", "--wg", office(text)]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f'office.toml: protocol: wg does not speak "tunneld"; write protocol = "wireguard" on both ends first{loss}\n'
    )


def test_the_format_must_be_named(office, capfd):
    with pytest.raises(SystemExit) as end:
        main(["export", office()])
    assert end.value.code == 2
    assert capfd.readouterr().err == (
        "tunneld export: the following arguments are required: --wg; see tunneld export --help\n"
    )
