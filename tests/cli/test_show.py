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
from tunneld.control import CauseStatus, ControlServer, PeerStatus, Status

KEY = "Igge9KzytmHQx7b4bBRaZOCEI2dVCzX0Ss6ZY1GGCVI="
PEER = {
    "name": "right",
    "public_key": None,
    "endpoint": "192.0.2.2:55555",
    "allowed_ips": [],
    "keepalive": 0,
    "state": "up",
    "reason": "datagrams arrive from 192.0.2.2:55555",
    "link": "udp 192.0.2.1:55555 → 192.0.2.2:55555",
    "connected_since": 65.4,
    "last_received": 0.2,
    "latest_handshake": None,
    "received_bytes": None,
    "sent_bytes": None,
    "round_trip": None,
    "loss": None,
    "differences": [],
}
NOBODY = {"endpoint": None, "link": None, "connected_since": None, "last_received": None}
UP = {
    "name": "left",
    "version": "0.1.0",
    "protocol": "plain",
    "transport": "udp",
    "cipher": None,
    "public_key": None,
    "mode": "tun",
    "interface": "tun0",
    "mtu": 1400,
    "state": "up",
    "reason": "datagrams arrive from 192.0.2.2:55555",
    "since": 65.4,
    "uptime": 200_000.0,
    "peers": [PEER],
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
    "drops": {"empty": 0, "queue-full": 2, "of-tomorrow": 1},
    "causes": [],
}
WAITING = {
    **UP,
    "name": "right",
    "mtu": None,
    "state": "listening",
    "reason": "nobody yet",
    "peers": [{**PEER, **NOBODY}],
    "drops": {},
}
SEALED = {
    **UP,
    "protocol": "tunneld",
    "cipher": "aes-256-gcm",
    "public_key": "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "reason": "1 of 2 peers up; right: session with 192.0.2.2:55555",
    "drops": {},
    "peers": [
        {
            **PEER,
            "public_key": KEY,
            "allowed_ips": ["10.9.0.2/32", "fd09::2/128"],
            "keepalive": 25,
            "reason": "session with 192.0.2.2:55555",
            "latest_handshake": 61.0,
            "received_bytes": 2048,
            "sent_bytes": 100,
            "round_trip": 0.0123,
            "loss": 0.25,
            "differences": ["mtu is 1400 here and 1300 at the peer; set both to 1300"],
        },
        {
            **PEER,
            **NOBODY,
            "name": "far",
            "state": "down",
            "reason": "peer shut down",
            "allowed_ips": ["10.9.0.3/32"],
        },
    ],
    "causes": [
        {"cause": "mtu-differs", "peer": "right", "count": 1, "last": 61.0, "sentence": 'peer "right": mtu is …'},
        {"cause": "not-for-our-key", "peer": None, "count": 7, "last": 3.9, "sentence": "handshake from …"},
    ],
}
UP_TEXT = """\
tunnel: left
  protocol: plain over udp (in clear)
  interface: tun0 (tun, mtu 1400)
  state: up for 1 min 5 s: datagrams arrive from 192.0.2.2:55555
  uptime: 2 d 7 h
  transfer: 3.00 MiB received, 8.22 KiB sent
  packets: 20 received, 10 sent
  dropped: of-tomorrow 1
  dropped: queue-full 2: the path or the peer takes less than there is to send; nothing to do

peer: right
  endpoint: 192.0.2.2:55555
  link: udp 192.0.2.1:55555 → 192.0.2.2:55555
  connected: 1 min 5 s ago
  last received: 0 s ago
"""
WAITING_TEXT = """\
tunnel: right
  protocol: plain over udp (in clear)
  interface: tun0 (tun)
  state: listening for 1 min 5 s: nobody yet
  uptime: 2 d 7 h
  transfer: 3.00 MiB received, 8.22 KiB sent
  packets: 20 received, 10 sent

peer: right
  endpoint: (it comes to us)
"""
SEALED_TEXT = """\
tunnel: left
  protocol: tunneld over udp, aes-256-gcm
  public key: HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
  interface: tun0 (tun, mtu 1400)
  state: up for 1 min 5 s: 1 of 2 peers up; right: session with 192.0.2.2:55555
  uptime: 2 d 7 h
  transfer: 3.00 MiB received, 8.22 KiB sent
  packets: 20 received, 10 sent
  cause: peer "right": mtu is … (1 min 1 s ago)
  cause: handshake from … (7 times, last 3 s ago)

peer: right
  public key: Igge9KzytmHQx7b4bBRaZOCEI2dVCzX0Ss6ZY1GGCVI=
  endpoint: 192.0.2.2:55555
  allowed ips: 10.9.0.2/32, fd09::2/128
  state: up: session with 192.0.2.2:55555
  link: udp 192.0.2.1:55555 → 192.0.2.2:55555
  connected: 1 min 5 s ago
  latest handshake: 1 min 1 s ago
  last received: 0 s ago
  transfer: 2.00 KiB received, 100 B sent
  round trip: 12.3 ms, 25 % lost
  persistent keepalive: every 25 seconds

peer: far
  endpoint: (it comes to us)
  allowed ips: 10.9.0.3/32
  state: down: peer shut down
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
    async with ControlServer(run_dir / "left.sock", {"status": lambda _: UP}):
        yield


async def show(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["show", *arguments])


@pytest.mark.usefixtures("left")
async def test_one_tunnel(capsys):
    assert await show("left") == 0
    assert capsys.readouterr().out == UP_TEXT


@pytest.mark.usefixtures("left")
async def test_all_tunnels(run_dir, capsys):
    async with ControlServer(run_dir / "right.sock", {"status": lambda _: WAITING}):
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


def test_who_may_not_look_is_not_told_that_nothing_runs(run_dir, capsys, without_capabilities):
    run_dir.chmod(0)
    try:
        assert without_capabilities(lambda: main(["show"])) == 1
    finally:
        run_dir.chmod(0o700)
    assert capsys.readouterr().err == f"tunneld: {run_dir} is closed to this user; ask as root\n"


def test_who_has_a_directory_of_his_own_is_told_of_that_of_root(run_dir, monkeypatch, capsys, without_capabilities):
    of_root = run_dir / "system"
    of_root.mkdir(mode=0)
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("tunneld.control.SYSTEM_DIR", of_root)
    monkeypatch.setattr("tunneld.cli.show.SYSTEM_DIR", of_root)
    assert without_capabilities(lambda: main(["show", "left"])) == 1
    assert capsys.readouterr().err == (
        f"tunneld: left: not running as far as can be seen, but {of_root} is closed to this user; ask as root\n"
    )


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


def test_a_sealed_tunnel_shows_its_keys_its_peers_and_why_something_is_refused():
    assert "\n".join(lines(SEALED)) + "\n" == SEALED_TEXT


def test_what_is_shown_here_is_what_a_tunnel_says():
    assert UP.keys() == WAITING.keys() == SEALED.keys() == Status.__annotations__.keys()
    for peer in (PEER, *SEALED["peers"]):
        assert peer.keys() == PeerStatus.__annotations__.keys()
    assert SEALED["causes"][0].keys() == CauseStatus.__annotations__.keys()


def test_text_of_a_stranger_is_escaped():
    evil = "\x1b[2J\n\u202e"
    cause = {"cause": "x", "peer": None, "count": 1, "last": 0.0, "sentence": evil}
    peer = {**PEER, "name": evil, "link": evil, "endpoint": evil, "reason": evil}
    status = {**UP, "reason": evil, "peers": [peer, peer], "causes": [cause], "drops": {evil: 1}}
    assert all(line.isprintable() for line in lines(status))


def test_a_long_sentence_is_whole():
    cause = {**SEALED["causes"][0], "sentence": "x" * 400}
    assert "x" * 400 in "\n".join(lines({**UP, "causes": [cause]}))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (86_400 * 3 + 59, "3 d 59 s"), (-1, "0 s")],
)
def test_an_age_has_its_two_largest_units(seconds, words):
    shown = list(lines({**UP, "peers": [{**PEER, "connected_since": seconds}]}))
    assert f"  connected: {words} ago" in shown
