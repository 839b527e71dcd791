from __future__ import annotations

import pytest

from tunneld.lab import topology
from tunneld.lab.topology import Lab


@pytest.fixture
async def pair(namespaces):
    async with Lab.open() as lab:
        yield await topology.pair(lab)
