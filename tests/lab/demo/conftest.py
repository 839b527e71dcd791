from __future__ import annotations

import asyncio
import io

import pytest

from tunneld.lab import topology
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
def stream():
    """What the screen has shown."""
    return io.StringIO()


@pytest.fixture
def screen(stream):
    return Screen(stream, live=False, colour=False, unicode=True)
