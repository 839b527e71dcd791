"""`tunneld demo` as people start it: a process of its own, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time

import pytest

DEMO = [sys.executable, "-m", "tunneld", "demo"]
HAS_WIREGUARD = shutil.which("wireguard-go") is not None and shutil.which("wg") is not None
PROBE = """
import os, pathlib, sys
{prepare}
sys.argv = ["tunneld", "demo"]
from tunneld.cli.main import main
sys.exit(main())
"""


def on_a_terminal(argv: list[str], environ: dict[str, str], columns: int = 80) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    # The C library of whoever started us may have left the size of another terminal.
    ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=ours | environ, preexec_fn=heed_ctrl_c
    )
    os.close(slave)
    return process, master


def heed_ctrl_c() -> None:
    """As from a shell: what runs in the background of one may have been told to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_until(fd: int, text: bytes) -> bytes:
    """Until `text` was shown, or with b"" until the end."""
    shown = b""
    while not text or text not in shown:
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: the last writer has closed the terminal
            data = b""
        if not data:
            break
        shown += data
    return shown


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_in_a_pipe_it_passes_without_escape_codes(namespaces):
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "30 MB in " in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"It works: all {19 + 4 * HAS_WIREGUARD} steps passed")
    assert "0 show it" in done.stdout
    assert "20 show it" in done.stdout


@pytest.mark.long
def test_on_a_narrow_terminal_it_is_live_and_without_colour_if_so_wished(namespaces):
    process, terminal = on_a_terminal(DEMO, {"TERM": "xterm", "NO_COLOR": "1"}, columns=60)
    shown = read_until(terminal, b"").decode()
    os.close(terminal)
    assert process.wait(5) == 0
    assert "\r\x1b[K" in shown
    assert "\x1b[3" not in shown
    assert "of 30 MB" in shown
    assert max(len(line.rpartition("\r\x1b[K")[2]) for line in shown.split("\r\n")) <= 60


@pytest.mark.parametrize(
    "moment",
    [
        "joined by veth",
        "daemons",
        *(pytest.param(late, marks=pytest.mark.long) for late in ("of 30 MB", "kill -9", "tap0 is a port")),
    ],
)
def test_ctrl_c_at_any_point_cleans_up(namespaces, moment):
    process, terminal = on_a_terminal(DEMO, {"TERM": "xterm"})
    read_until(terminal, moment.encode())
    children = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in read_until(terminal, b"").decode()
    os.close(terminal)
    assert process.wait(10) == 130
    wait_gone(children)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long), (signal.SIGKILL, -9)]
)
def test_a_killed_demo_leaves_no_process_and_no_device(namespaces, number, code):
    links = socket.if_nameindex()
    process, terminal = on_a_terminal(DEMO, {"TERM": "xterm"})
    read_until(terminal, b"of 30 MB")
    children = children_of(process.pid)
    assert len(children) == 2
    process.send_signal(number)
    assert process.wait(10) == code
    os.close(terminal)
    wait_gone(children)
    assert socket.if_nameindex() == links


@pytest.mark.long
def test_keep_waits_for_enter(namespaces):
    process, terminal = on_a_terminal([*DEMO, "--keep"], {"TERM": "xterm"})
    assert b"nsenter -t " in read_until(terminal, b"Press Enter")
    children = children_of(process.pid)
    assert len(children) == 4 + 2 * HAS_WIREGUARD + 6
    os.write(terminal, b"\n")
    read_until(terminal, b"")
    os.close(terminal)
    assert process.wait(10) == 0
    wait_gone(children)


def test_a_reader_that_goes_away_ends_it(namespaces):
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            "from tunneld.edge import netns; netns.unshare(netns.CLONE_NEWUSER)",
            "tunneld: this machine does not let us make namespaces: ",
        ),
        (
            "import ctypes; from tunneld.edge import netns; netns.unshare(netns.CLONE_NEWNS); "
            "assert ctypes.CDLL(None).mount(b'none', b'/dev/net', b'tmpfs', 0, None) == 0",
            "tunneld: cannot open /dev/net/tun: ",
        ),
    ],
    ids=["namespaces", "tun"],
)
def test_a_machine_that_cannot_is_told_in_one_line(namespaces, prepare, said):
    argv = [sys.executable, "-c", PROBE.format(prepare=prepare)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert "; " in done.stderr
