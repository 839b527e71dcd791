from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tunneld.cli.main import main
from tunneld.edge import ifinfo, tuntap


def tunneld(*words: str) -> int:
    """The exit code of `tunneld device WORDS`."""
    return main(["device", *words])


@pytest.mark.usefixtures("namespaces")
def test_add_and_del_say_the_command_that_they_equal(capsys):
    assert tunneld("add", "kept0", "--mode", "tap", "--user", "root", "--group", "0") == 0
    assert ifinfo.lookup("kept0") == ifinfo.Interface("tun", mode="tap", owner=0, group=0, persistent=True)
    assert capsys.readouterr().out == "ip tuntap add dev kept0 mode tap user 0 group 0\n"

    assert tunneld("del", "kept0") == 0
    assert ifinfo.lookup("kept0") is None
    assert capsys.readouterr().out == "ip tuntap del dev kept0 mode tap\n"


@pytest.mark.usefixtures("namespaces")
def test_without_owner_nobody_is_named(capsys):
    assert tunneld("add", "kept0", "--mode", "tun") == 0
    tuntap.delete("kept0")
    assert capsys.readouterr().out == "ip tuntap add dev kept0 mode tun\n"


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("add", "lo", "--mode", "tun"),
            "tunneld: lo: exists and is no TUN or TAP device (hardware); choose another name",
        ),
        (("del", "lo"), "tunneld: lo: exists and is no TUN or TAP device (hardware); tunneld does not remove it"),
        (("del", "nothing0"), "tunneld: nothing0: there is no such device"),
    ],
)
def test_a_failure_is_one_line_and_exit_1(capsys, words, line):
    assert tunneld(*words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == line + "\n"


@pytest.mark.usefixtures("namespaces")
def test_a_device_in_use_is_not_removed(capsys):
    tuntap.add("kept0", "tun")
    fd = tuntap.attach("kept0", "tun")
    try:
        assert tunneld("del", "kept0") == 1
        assert f"kept0: is busy (pid {os.getpid()}, " in capsys.readouterr().err
    finally:
        os.close(fd)
        tuntap.delete("kept0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "add|del"),
        (("add", "x" * 16, "--mode", "tun"), "a device name has 1 to 15 bytes"),
        (("add", "a/b", "--mode", "tun"), "a device name has no '/'"),
        (("add", "tun0"), "--mode"),
        (("add", "tun0", "--mode", "tin"), "invalid choice: 'tin'"),
        (("add", "tun0", "--mode", "tun", "--user", "no-such-user"), "there is no user 'no-such-user'"),
        (("add", "tun0", "--mode", "tun", "--group", "no-such-group"), "there is no group 'no-such-group'"),
        (("add", "tun0", "--mode", "tun", "--user", "4294967295"), "4294967295 is no user"),
        (("del", "tun%d"), "a device name has no '%'"),
        (("del",), "NAME"),
    ],
)
def test_wrong_words_are_usage_and_exit_2(capsys, words, says):
    with pytest.raises(SystemExit) as caught:
        tunneld(*words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_registering_the_verb_loads_nothing_heavy():
    heavy = "{'tunneld.edge.tuntap', 'ctypes', 'asyncio'}"
    code = f"import sys; import tunneld.cli.device; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
