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
