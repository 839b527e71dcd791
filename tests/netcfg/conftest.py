"""A namespace for one test, iproute2 in it as the independent oracle, and a kernel object for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import missing
from tunneld.edge import netns
from tunneld.netcfg.kernel import Kernel


@dataclass(frozen=True)
class Space:
    """A network namespace that vanishes with its descriptor."""

    fd: int

    def ip(self, command: str, batch: str | None = None) -> str:
        """What `ip COMMAND` prints inside; `batch` is for `-batch -`."""
        argv = ["ip", *command.split()]
        run = partial(subprocess.run, argv, input=batch, check=True, capture_output=True, text=True)
        return netns.call_in(self.fd, run).stdout


@pytest.fixture
def space(namespaces):
    if shutil.which("ip") is None:
        missing("ip is not installed: apt-get install iproute2")
    fd = netns.new()
    try:
        netns.call_in(fd, no_duplicate_address_detection)
    except OSError as error:
        missing(f"cannot set a sysctl of a namespace: {error.strerror}")
    yield Space(fd)
    os.close(fd)


@pytest.fixture
async def kernel(space):
    async with Kernel.open(space.fd) as opened:
        yield opened


def no_duplicate_address_detection():
    """Else the kernel changes addresses and local routes for seconds after each test has begun."""
    for name in ("accept_dad", "dad_transmits"):
        Path(f"/proc/sys/net/ipv6/conf/default/{name}").write_text("0")
