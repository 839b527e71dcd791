from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from tunneld.lab.bench import remote
from tunneld.lab.bench.remote import End, MeasureError


async def test_an_end_answers_from_within_its_host(host):
    end = await End.start(host, "end")
    pinged = await end.ask("ping", address="127.0.0.1", seconds=0.05)
    assert len(pinged["times"]) == pinged["sent"] > 0


async def test_a_job_that_fails_fails_the_measurement(host):
    end = await End.start(host, "end")
    with pytest.raises(MeasureError, match=r"^ping: .*Network is unreachable$"):
        await end.ask("ping", address="192.0.2.9", seconds=0.05)


async def test_an_end_that_dies_is_noticed_with_its_log(host):
    end = await End.start(host, "end")
    with pytest.raises(MeasureError, match=re.compile("the measuring process ended; its log:\n.*KeyError", re.S)):
        await end.ask("no such job")


async def test_an_end_that_says_nothing_is_not_waited_for(host, monkeypatch):
    monkeypatch.setattr(remote, "ANSWER", 0.2)
    end = await End.start(host, "end")
    os.kill(end._child.pid, signal.SIGSTOP)
    with pytest.raises(MeasureError, match="no answer within"):
        await end.ask("ping", address="127.0.0.1", seconds=0.05)
    os.kill(end._child.pid, signal.SIGCONT)


async def test_an_end_that_does_not_start_is_noticed(host, monkeypatch):
    monkeypatch.setattr(remote, "START", 0.2)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(MeasureError, match="end did not start"):
        await End.start(host, "end")
