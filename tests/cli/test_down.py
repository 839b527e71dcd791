"""`tunneld down` stops what runs, sweeps what was killed, and touches nothing else."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tunneld import instance
from tunneld.cli import down as verb
from tunneld.cli.main import main
from tunneld.edge import netns
from tunneld.netcfg.journal import Journal, Record
from tunneld.netcfg.operation import BridgeDel

CONFIG = """\
[tunnel]
protocol = "plain"
listen = "127.0.0.1:55555"
[interface]
name = "t0"
mode = "tap"
addresses = ["192.168.7.1/24"]
mtu = 1500
bridge = "br0"
"""


def test_nothing_to_sweep_is_said_and_no_failure(down):
    assert down("office") == (0, ["office: nothing to sweep"], [])
    assert down("office", "--stopped") == (0, ["office: nothing to sweep"], [])


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "n" * 300, "/etc/tunneld/"])
def test_what_no_tunnel_is_called_is_wrong_usage(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        main(["down", name])
    assert end.value.code == 2
    assert "is no name of a tunnel; use letters, digits and" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_path_to_the_file_is_as_good_as_the_name(down):
    assert down("/etc/tunneld/office.toml") == (0, ["office: nothing to sweep"], [])


def test_a_running_daemon_is_stopped(down, daemon, ip, tmp_path):
    process = daemon()
    assert "br0" in ip("link")
    assert down("office") == (0, ["office: stopped"], [])
    assert process.wait(timeout=10) == 0
    assert "br0" not in ip("link")
    assert not instance.is_held(tmp_path, "office")


def test_with_stopped_a_running_daemon_is_left_alone(down, daemon, ip):
    process = daemon()
    before = addresses(ip)
    assert len(before) > 1
    assert down("office", "--stopped") == (0, ["office runs: left alone"], [])
    assert addresses(ip) == before
    assert process.poll() is None


def addresses(ip):
    """Device and address of each; the state of a device may still change by itself."""
    return {tuple(line.split()[1:4]) for line in ip("-oneline address").splitlines()}


@pytest.mark.parametrize("flags", [(), ("--stopped",)])
def test_what_a_killed_daemon_left_is_swept(flags, down, daemon, ip, tmp_path):
    before = ip("link")
    process = daemon()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "192.168.7.1/24" in ip("address show br0")
    code, commands, said = down("office", *flags)
    assert (code, said) == (0, [])
    assert "ip address del 192.168.7.1/24 dev br0" in commands
    assert "ip link del br0 type bridge" in commands
    assert ip("link") == before
    assert not list(tmp_path.glob("office.[su]*"))
    assert down("office")[1] == ["office: nothing to sweep"]


def test_a_bridge_that_others_use_by_now_is_left_and_said(down, daemon, ip):
    process = daemon()
    process.send_signal(signal.SIGKILL)
    process.wait()
    ip("link add p0 type veth peer name p1")
    ip("link set p0 master br0")
    code, commands, (said,) = down("office")
    assert (code, commands) == (0, ["ip address del 192.168.7.1/24 dev br0"])
    assert said.endswith("br0 has ports that are not ours (p0): left alone")
    assert "br0" in ip("link")


def test_a_namespace_that_has_gone_took_everything_along(down, tmp_path):
    journal = Journal(tmp_path, "office")
    journal.write(Record("t0", "gone", {}, (BridgeDel("br0", "tunneld:office"),)))
    assert down("office") == (0, ["office: nothing to sweep"], [])
    assert not journal.path.exists()


def test_a_daemon_that_does_not_stop_is_a_failure(down, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "STOP_SECONDS", 0.1)
    with instance.hold(tmp_path, "office"):
        code, printed, (said,) = down("office")
    assert (code, printed) == (1, [])
    assert said.startswith("tunneld: office: runs still, 0.1 s after it was asked to stop; ")


def test_without_capabilities_it_says_what_is_missing(space, ip, tmp_path):
    ip("link add br0 type bridge")
    ip("link set br0 alias tunneld:office")
    code = f"{DROP}; from tunneld.cli.main import main; sys.exit(main(['down', 'office']))"
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False)
    done = netns.call_in(space, run)
    assert done.returncode == 1
    assert "ip link del br0 type bridge: Operation not permitted; run as root, or with CAP_NET_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr


DROP = "import ctypes, sys; ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())"


@pytest.fixture(autouse=True)
def _own_run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))


@pytest.fixture(autouse=True)
def _own_log():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def down(space, capsys):
    """down(arguments…) → exit code, printed lines, lines on standard error."""

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        code = netns.call_in(space, lambda: main(["down", *arguments]))
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


@pytest.fixture
def daemon(space, tmp_path):
    """daemon() starts `tunneld run` on CONFIG inside and returns its process when it is ready."""
    path = tmp_path / "office.toml"
    path.write_text(CONFIG)
    path.chmod(0o644)
    started = []

    def run() -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tunneld", "run", str(path)]
        process = netns.call_in(space, partial(subprocess.Popen, argv, stderr=subprocess.PIPE, text=True))
        started.append(process)
        for line in process.stderr:
            if "master br0" in line:
                break
        wait_for(tmp_path / "office.sock")
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_for(path):
    """Wait until the control socket is there: the kernel is as wished then. At most 5 s."""
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)
