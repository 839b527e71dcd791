"""A tunnel between tunneld and wireguard-go, as two people have it who never met: it works, and both say so."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE
from tests.system.wireguard import couple, psk
from tunneld.lab import network
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.traffic import make_file, transfer

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

FAMILIES = ["v4", "v6"] if network.HAS_IPV6 else ["v4"]
SIZE = 300_000


@pytest.mark.parametrize("initiator", ["tunneld", "wireguard-go"])
@pytest.mark.parametrize("preshared", [False, True], ids=["", "psk"])
@pytest.mark.parametrize("outer", ["v4", "v6"])
async def test_either_end_begins_and_everything_passes(hosts, tmp_path, initiator, preshared, outer):
    if outer not in FAMILIES:
        missing("this kernel has no IPv6")
    both = await couple(hosts, outer=outer, initiator=initiator, preshared_key=psk() if preshared else "")
    begins, waits = (0, 1) if initiator == "tunneld" else (1, 0)
    beginner = (hosts.left, hosts.right)[begins]
    await wait_reachable(beginner, INSIDE["v4"][waits])
    for family in FAMILIES:
        for host, target in ((hosts.left, INSIDE[family][1]), (hosts.right, INSIDE[family][0])):
            assert (await ping(host, target, count=3, interval=0.0)).lost == 0
    make_file(tmp_path / "sent", SIZE)
    for family in FAMILIES:
        for sender, receiver, target in (
            (hosts.left, hosts.right, INSIDE[family][1]),
            (hosts.right, hosts.left, INSIDE[family][0]),
        ):
            assert (await transfer(sender, tmp_path / "sent", receiver, tmp_path / "got", (target, 7000))).intact
    await both.agree()
