from __future__ import annotations

import asyncio
import io

import pytest

from tunneld import keys as formats
from tunneld.lab import topology
from tunneld.lab.demo.scene import KEY, Keys
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Lab


def pytest_asyncio_loop_factories():
    """The one that the demo runs on."""
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def lab(namespaces):
    async with Lab.open() as lab:
        yield lab


@pytest.fixture
async def pair(lab):
    return await topology.pair(lab)


@pytest.fixture
def keys(pair):
    """A key pair for each of the two hosts, by the file that the scenes look for."""
    public = []
    for number, host in enumerate((pair.left, pair.right), start=1):
        private = formats.PrivateKey(bytearray([number] * formats.KEY_BYTES))
        path = host.run_dir / KEY
        path.write_bytes(formats.encode(private.raw))
        path.chmod(0o600)
        public.append(str(private.public_key()))
    return Keys(*public)


@pytest.fixture
def stream():
    """What the screen has shown."""
    return io.StringIO()


@pytest.fixture
def screen(stream):
    return Screen(stream, live=False, colour=False, unicode=True)


@pytest.fixture
def steps(stream):
    """The names of the steps that have passed so far."""
    return lambda: [line[4:16].strip() for line in stream.getvalue().splitlines() if line.startswith("  ✓")]
