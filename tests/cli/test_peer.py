"""`tunneld peer`, beside a control socket that answers as a daemon does."""

from __future__ import annotations

import asyncio

import pytest

from tunneld.cli.main import main
from tunneld.control import ControlServer


@pytest.fixture(autouse=True)
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


async def reset(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["peer", "reset-timestamp", *arguments])


async def test_the_daemon_is_asked_and_what_it_did_is_said(run_dir, capsys):
    asked = []
    async with ControlServer(run_dir / "left.sock", {"reset-timestamp": lambda asking: asked.append(asking) or {}}):
        assert await reset("left", "right") == 0
    assert asked == [{"request": "reset-timestamp", "peer": "right"}]
    assert capsys.readouterr().out == "left: peer right: its next handshake is taken, whatever its timestamp\n"


async def test_what_the_daemon_refuses_is_one_line(run_dir, capsys):
    async with ControlServer(run_dir / "left.sock", {"reset-timestamp": lambda _: {"error": "no such peer"}}):
        assert await reset("left", "nobody\n") == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "tunneld: left: nobody\\n: no such peer\n")


async def test_a_tunnel_that_does_not_run_has_nothing_to_forget(capsys):
    assert await reset("left", "right") == 1
    assert capsys.readouterr().err == "tunneld: left: not running, so there is nothing to forget\n"


@pytest.mark.parametrize("arguments", [[], ["reset"], ["reset-timestamp"], ["reset-timestamp", "left"]])
def test_what_is_missing_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["peer", *arguments])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
