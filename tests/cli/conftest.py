"""A network namespace for one test, and `ip` as a witness inside."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial

import pytest

from tests.conftest import missing
from tunneld.edge import netns
from tunneld.lab import sandbox


@pytest.fixture
def space(namespaces):
    """A namespace for one test, with lo up."""
    fd = netns.new()
    netns.call_in(fd, sandbox.lo_up)
    yield fd
    os.close(fd)


@pytest.fixture
def ip(space):
    """ip("link add …") inside; returns what it printed."""
    if shutil.which("ip") is None:
        missing("ip is not installed: apt-get install iproute2")

    def run(command: str) -> str:
        argv = ["ip", *command.split()]
        done = partial(subprocess.run, argv, check=True, capture_output=True, text=True)
        return netns.call_in(space, done).stdout

    return run
