"""A namespace for one test, iproute2 in it as the independent oracle, and a kernel object for it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import pytest

from tunneld.edge import netns
from tunneld.netcfg.kernel import Kernel


@dataclass(frozen=True)
class Space:
    """A network namespace that vanishes with its descriptor."""

    fd: int

    def ip(self, command: str) -> str:
        """What `ip COMMAND` prints inside."""
        argv = ["ip", *command.split()]
        done = netns.call_in(self.fd, lambda: subprocess.run(argv, check=True, capture_output=True, text=True))
        return done.stdout


@pytest.fixture
def space(namespaces):
    fd = netns.new()
    yield Space(fd)
    os.close(fd)


@pytest.fixture
async def kernel(space):
    async with Kernel.open(space.fd) as opened:
        yield opened
