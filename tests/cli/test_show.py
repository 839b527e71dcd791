from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import subprocess
import sys

import pytest

from tunneld.cli.main import main
from tunneld.cli.show import lines
from tunneld.control import ControlServer

UP = {
    "name": "left",
    "version": "0.1.0",
    "protocol": "plain",
    "transport": "udp",
    "mode": "tun",
    "interface": "tun0",
    "mtu": 1400,
    "state": "up",
    "reason": "heard from 192.0.2.2:55555",
    "since": 65.4,
    "uptime": 200_000.0,
    "peer": {
        "name": "right",
        "endpoint": "192.0.2.2:55555",
        "link": "udp 192.0.2.1:55555 → 192.0.2.2:55555",
        "connected_since": 65.4,
        "last_received": 0.2,
    },
    "counters": {
        "device_read_packets": 10,
        "device_read_bytes": 8400,
        "device_written_packets": 20,
        "device_written_bytes": 16800,
        "link_sent_messages": 10,
        "link_sent_bytes": 8420,
        "link_received_messages": 20,
        "link_received_bytes": 3 << 20,
    },
    "drops": {"empty": 0, "queue-full": 2, "stranger": 1},
}
WAITING = {
    **UP,
    "name": "right",
    "mtu": None,
    "state": "listening",
    "reason": "nobody yet",
    "peer": {**UP["peer"], "endpoint": None, "link": None, "connected_since": None, "last_received": None},
    "drops": {},
}
UP_TEXT = """\
tunnel: left
  protocol: plain over udp (in clear)
  interface: tun0 (tun, mtu 1400)
  state: up for 1 min 5 s: heard from 192.0.2.2:55555
  uptime: 2 d 7 h

peer: right
  endpoint: 192.0.2.2:55555
  link: udp 192.0.2.1:55555 → 192.0.2.2:55555
  connected: 1 min 5 s ago
  last received: 0 s ago
  transfer: 3.00 MiB received, 8.22 KiB sent
  packets: 20 received, 10 sent
  dropped: queue-full 2, stranger 1
"""
WAITING_TEXT = """\
tunnel: right
  protocol: plain over udp (in clear)
  interface: tun0 (tun)
  state: listening for 1 min 5 s: nobody yet
  uptime: 2 d 7 h

peer: right
  endpoint: (it comes to us)
  transfer: 3.00 MiB received, 8.22 KiB sent
  packets: 20 received, 10 sent
"""


@pytest.mark.parametrize("name", ["", "..", "a b", "n" * 300])
def test_what_no_tunnel_is_called_is_wrong_usage(name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["show", name])
    assert end.value.code == 2
    assert "is no name of a tunnel; use letters, digits and" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


@pytest.fixture
async def left(run_dir):
    async with ControlServer(run_dir / "left.sock", {"status": lambda: UP}):
        yield


async def show(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["show", *arguments])


@pytest.mark.usefixtures("left")
async def test_one_tunnel(capsys):
    assert await show("left") == 0
    assert capsys.readouterr().out == UP_TEXT


@pytest.mark.usefixtures("left")
async def test_all_tunnels(run_dir, capsys):
    async with ControlServer(run_dir / "right.sock", {"status": lambda: WAITING}):
        assert await show() == 0
        assert capsys.readouterr().out == f"{UP_TEXT}\n{WAITING_TEXT}"


@pytest.mark.usefixtures("left")
async def test_json_is_what_the_daemon_said(capsys):
    assert await show("left", "--json") == 0
    assert json.loads(capsys.readouterr().out) == UP
    assert await show("--json") == 0
    assert json.loads(capsys.readouterr().out) == [UP]


def test_a_tunnel_that_does_not_run(capsys):
    assert main(["show", "left"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "tunneld: left: not running; start it: tunneld run left\n")


def test_nothing_runs(run_dir, capsys):
    assert main(["show"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"no tunnel runs here (no socket in {run_dir})\n")
    assert main(["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.usefixtures("left")
async def test_a_tunnel_that_was_killed_does_not_hide_the_others(run_dir, capsys):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(run_dir / "dead.sock"))
    assert await show() == 0
    printed = capsys.readouterr()
    assert printed.out == UP_TEXT
    assert printed.err == "tunneld: dead: was killed; clean up: tunneld down dead\n"


async def test_where_one_was_killed_it_is_not_said_that_there_is_no_socket(run_dir, capsys):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(run_dir / "dead.sock"))
    assert await show() == 0
    assert capsys.readouterr().err == "tunneld: dead: was killed; clean up: tunneld down dead\n"


async def test_a_tunnel_that_refuses_is_a_failure(run_dir, capsys):
    async with ControlServer(run_dir / "odd.sock", {}):
        assert await show() == 1
    assert capsys.readouterr().err == "tunneld: odd: unknown request; there are: \n"


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colour_is_for_a_terminal_without_no_color(variables, coloured):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **variables}
    command = [sys.executable, "-m", "tunneld", "show", "left"]
    try:
        done = await asyncio.to_thread(subprocess.run, command, stdout=theirs, env=environment, timeout=30)
        shown = os.read(ours, 65_536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert b"left" in shown
    assert (b"\x1b[" in shown) is coloured


def test_text_of_a_stranger_is_escaped():
    status = {**UP, "reason": "\x1b[2J", "peer": {**UP["peer"], "name": "a\nb", "link": "\x07"}}
    assert all(line.isprintable() for line in lines(status))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (86_400 * 3 + 59, "3 d 59 s"), (-1, "0 s")],
)
def test_an_age_has_its_two_largest_units(seconds, words):
    assert f"  connected: {words} ago" in list(
        lines({**UP, "peer": {**UP["peer"], "connected_since": seconds}}),
    )
