"""`tunneld plan` prints what `tunneld run` would do, finds what is in the way, and changes nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial

import pytest

from tunneld import instance
from tunneld.cli.main import main
from tunneld.edge import netns
from tunneld.edge.device import Device

TUN = """\
[tunnel]
protocol = "plain"
listen = "127.0.0.1:{port}"
[interface]
name = "t0"
addresses = ["192.168.7.1/24", "fd00:5::1/64"]
mtu = 1400
[[peer]]
allowed_ips = ["192.168.7.2/32", "10.20.0.0/16", "0.0.0.0/0"]
"""
TAP = """\
[tunnel]
protocol = "plain"
listen = "127.0.0.1:{port}"
[interface]
name = "t0"
mode = "tap"
addresses = ["192.168.7.1/24"]
mtu = 1500
bridge = "br0"
"""
COMMANDS = [
    "ip tuntap add t0 mode tun",
    "ip link set dev t0 mtu 1400",
    "ip address add 192.168.7.1/24 dev t0",
    "ip address add fd00:5::1/64 dev t0 nodad",
    "ip link set dev t0 up",
    "ip route add 10.20.0.0/16 dev t0 proto 250",
]


def test_a_device_that_is_to_be_made(plan, ip):
    before = ip("link")
    assert plan(TUN) == (0, COMMANDS, [])
    assert ip("link") == before


def test_no_key_is_read(plan):
    sealed = TUN.replace('protocol = "plain"', 'private_key_file = "no.key"') + (
        'public_key = "L+V9o0fNYkMVKNqsX7spBzD/9oSvxM/C7ZCZX1jLO3Q="\n'
        "[[peer]]\n"
        'name = "second"\n'
        'public_key = "pOCSkraZt9iG6KMCGZqa5pVmUeEbyXiYLxI+1gWhYx0="\n'
        'allowed_ips = ["10.30.0.0/16"]\n'
    )
    named = sealed.replace("[[peer]]", '[[peer]]\nname = "first"', 1)
    assert plan(named) == (0, [*COMMANDS, "ip route add 10.30.0.0/16 dev t0 proto 250"], [])


def test_the_commands_are_those_that_make_it(plan, ip):
    _, commands, _ = plan(TUN)
    for command in commands:
        ip(command.removeprefix("ip "))
    code, commands, said = plan(TUN)
    assert (code, commands) == (0, [])
    assert said[0].endswith("office.toml: nothing to change")


def test_a_bridge_that_is_to_be_made(plan):
    assert plan(TAP)[1] == [
        "ip tuntap add t0 mode tap",
        "ip link add br0 type bridge",
        "ip link set dev br0 alias tunneld:office",
        "ip link set dev br0 up",
        "ip address add 192.168.7.1/24 dev br0",
        "ip link set dev t0 up",
        "ip link set dev t0 master br0",
    ]


def test_another_namespace_is_looked_at_and_named(plan, space):
    fd = netns.new()
    try:
        path = f"/proc/{os.getpid()}/fd/{fd}"
        code, commands, _ = plan(TUN.replace("mtu = 1400", f'netns = "{path}"'))
    finally:
        os.close(fd)
    assert code == 0
    assert commands[0] == f"nsenter --net={path} ip tuntap add t0 mode tun"


def test_a_namespace_that_is_not_there(plan):
    code, commands, said = plan(TUN.replace("mtu = 1400", 'netns = "work"'))
    assert (code, commands) == (2, [])
    assert said == ["office.toml:7: netns: work: No such file or directory; make it with: ip netns add work"]


def test_every_fault_has_its_line(plan, ip):
    ip("link add p0 type veth peer name p1")
    ip("address add 192.168.7.9/24 dev p0")
    ip("link set p0 up")
    ip("route add 10.20.0.0/16 dev p0")
    code, commands, said = plan(TUN)
    assert (code, commands) == (2, [])
    assert said == [
        "office.toml:6: addresses: 192.168.7.1/24 already on p0 as 192.168.7.9/24; choose another subnet",
        "office.toml:9: allowed_ips: there is a route already: 10.20.0.0/16 dev p0; "
        "delete it, or take 10.20.0.0/16 out of the configuration",
    ]


def test_an_interface_that_is_not_ours(plan, ip):
    ip("link add t0 type bridge")
    assert plan(TUN)[2] == ["office.toml:5: name: t0 exists and is no TUN or TAP device; choose another name"]


def test_a_device_that_another_process_holds_is_named_with_it(plan, space):
    device = Device.open("t0", "tun", namespace=space)
    try:
        (line,) = plan(TUN)[2]
    finally:
        device.close()
    assert line.startswith("office.toml:5: name: t0 is busy (pid ")
    assert f"pid {os.getpid()}, " in line  # and whoever has a t0 in another namespace of this machine


def test_a_port_that_another_process_has_is_named_with_it(plan, space):
    sock = netns.call_in(space, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind(("127.0.0.1", 0))
        (line,) = plan(TUN, port=sock.getsockname()[1])[2]
    assert line.startswith("office.toml:3: listen: cannot listen on udp 127.0.0.1:")
    assert "already used by" in line


def test_an_address_that_is_not_of_this_host(plan):
    (line,) = plan(TUN.replace("127.0.0.1", "198.51.100.9"))[2]
    assert line.endswith("198.51.100.9 is not an address of this host")


def test_what_our_own_daemon_holds_is_in_nobodys_way(plan, space, tmp_path):
    device = Device.open("t0", "tun", namespace=space)
    try:
        with instance.hold(tmp_path, "office"):
            code, commands, _ = plan(TUN)
    finally:
        device.close()
    assert (code, commands) == (0, COMMANDS[1:])


def test_a_configuration_with_faults_is_not_planned(plan):
    code, commands, said = plan(TUN.replace("addresses", "adresses"))
    assert (code, commands) == (2, [])
    assert "did you mean" in said[0]


@pytest.mark.parametrize("may_look", [True, False])
def test_no_capability_is_needed(space, tmp_path, may_look):
    path = written(tmp_path, TUN)
    code = f"{DROP}; from tunneld.cli.main import main; sys.exit(main(['plan', {str(path)!r}]))"
    env = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)}
    run = partial(subprocess.run, [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    with instance.hold(tmp_path, "office"):
        (tmp_path / "office.lock").chmod(0o600 if may_look else 0)
        done = netns.call_in(space, run)
    assert (done.returncode, done.stdout.splitlines()) == (0, COMMANDS)


DROP = """
import ctypes, sys
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
""".strip().replace("\n", "; ")


@pytest.fixture
def plan(space, tmp_path, monkeypatch, capsys):
    """plan(text) → exit code, printed lines, lines on standard error without the directory."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))

    def run(text: str, port: int = 55555) -> tuple[int, list[str], list[str]]:
        path = written(tmp_path, text, port)
        code = netns.call_in(space, lambda: main(["plan", str(path)]))
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.replace(f"{tmp_path}/", "").splitlines()

    return run


def written(directory, text: str, port: int = 55555):
    path = directory / "office.toml"
    path.write_text(text.format(port=port))
    path.chmod(0o644)
    return path
