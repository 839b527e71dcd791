"""The whole way through on asyncio's own loop; every other system test runs the daemons on uvloop."""

from __future__ import annotations

import pytest

from tests.system.conftest import INSIDE, Setup, start
from tunneld.lab.ping import ping
from tunneld.lab.traffic import make_file, transfer

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_packets_pass_and_the_daemons_end_well(hosts, transport, tmp_path):
    left, right = await start(hosts, Setup(transport), options=("--loop", "asyncio"))
    assert (await ping(hosts.right, INSIDE["v4"][0], size=1300)).lost == 0
    make_file(tmp_path / "sent", 2_000_000)
    moved = await transfer(hosts.left, tmp_path / "sent", hosts.right, tmp_path / "received", (INSIDE["v4"][1], 7000))
    assert moved.intact
    assert [await left.stop(), await right.stop()] == [0, 0]
    assert "Traceback" not in left.log() + right.log()
