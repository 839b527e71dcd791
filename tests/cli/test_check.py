from __future__ import annotations

import pytest

from tunneld.cli.main import main

GOOD = """\
[tunnel]
protocol = "plain"
listen = "[::]:55555"
[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]
[[peer]]
endpoint = ["192.0.2.2:55555", "127.0.0.1:1"]
"""
PRIVATE = "yI5gvNMEiDSCDpIj1QvZZQjMbgQs4fXtSVK0g+hUvHM="
PRESHARED = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
A = "L+V9o0fNYkMVKNqsX7spBzD/9oSvxM/C7ZCZX1jLO3Q="
B = "pOCSkraZt9iG6KMCGZqa5pVmUeEbyXiYLxI+1gWhYx0="
SEALED = f"""\
[tunnel]
transport = "tcp"
cipher = "aes-256-gcm"
private_key_file = "left.key"
listen = "[::]:55555"
[interface]
name = "tun0"
addresses = ["10.0.0.1/24"]
[[peer]]
name = "a"
public_key = "{A}"
preshared_key_file = "a.psk"
endpoint = ["vpn.example.org:1", "192.0.2.2:1"]
allowed_ips = ["10.0.0.2/32"]
[[peer]]
name = "b"
public_key = "{B}"
allowed_ips = ["10.0.0.3/32"]
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "left.toml"
    path.write_text(GOOD)
    path.chmod(0o644)
    return path


def test_a_good_configuration_is_summed_up(path, capsys):
    assert main(["check", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        f"{path}: no fault: plain (in clear) over udp, tun device tun0, listens on [::]:55555, "
        "connects to 192.0.2.2:55555 or 127.0.0.1:1\n"
    )


def test_a_sealed_one_names_its_cipher_its_key_and_its_peers(path, capsys, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path.parent.chmod(0o755)
    for name, content in (("left.key", PRIVATE), ("a.psk", PRESHARED)):
        (path.parent / name).write_text(content)
        (path.parent / name).chmod(0o600)
    path.write_text(SEALED)
    assert main(["check", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        f"{path}: no fault: tunneld (aes-256-gcm) over tcp, tun device tun0, listens on [::]:55555, "
        "our public key is PNqho1iR1rH00cltzu10YuuolTYXjMr04lh8802w1AY=\n"
        f'  peer "a": at vpn.example.org:1 or 192.0.2.2:1, public key {A}, with a preshared key\n'
        f'  peer "b": comes to us, public key {B}\n'
    )


def test_a_bad_one_has_a_line_for_each_fault(path, capsys):
    path.write_text(GOOD.replace("listen", "lisen").replace("/24", "/33"))
    assert main(["check", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(": ")[:2] for line in printed.err.splitlines()] == [
        [f"{path}:3", '"lisen"'],
        [f"{path}:6", "addresses"],
    ]


def test_a_warning_is_a_fault_only_with_strict(path, capsys):
    path.write_text(GOOD.replace("[[peer]]", "mtu = 1500\n[[peer]]"))
    assert main(["check", str(path)]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith(f"{path}:7: mtu: 1500 + 30 of headers = 1530 is more than the 1500 of an Ethernet path")
    assert warning.endswith(" (a warning)\n")
    assert main(["check", "--strict", str(path)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", warning.replace(" (a warning)", ""))


def test_strict_looks_names_up(path, capsys):
    path.write_text(GOOD.replace("192.0.2.2:55555", "no-such-host.invalid:55555"))
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
    assert main(["check", "--strict", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:8: endpoint: no-such-host.invalid does not resolve (")
    path.write_text(GOOD.replace("127.0.0.1:1", "localhost:1"))
    assert main(["check", "--strict", str(path)]) == 0
