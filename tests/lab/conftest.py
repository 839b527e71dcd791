from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tunneld.lab import topology
from tunneld.lab.host import Host
from tunneld.lab.topology import Lab


@pytest.fixture
async def host(namespaces):
    """One host, with nothing but its loopback. Its directory is short: socket paths end at 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="lab-") as directory:
        host = Host.create("one", Path(directory) / "one")
        try:
            yield host
        finally:
            await host.close()


@pytest.fixture
async def lab(namespaces):
    async with Lab.open() as lab:
        yield lab


@pytest.fixture
async def pair(lab):
    return await topology.pair(lab)
