from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tunneld.lab.host import Host


@pytest.fixture
async def host(namespaces, request):
    """One host, with nothing but its loopback. Its directory is short: socket paths end at 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="lab-") as directory:
        host = Host.create("one", Path(directory) / "one")
        try:
            yield host
        finally:
            await host.close()
