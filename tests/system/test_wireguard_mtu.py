"""Long packets between tunneld on the left and wireguard-go on the right: padding, fragments, jumbo frames."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE
from tests.system.wireguard import DATA, couple, set_mtu, udp_payload
from tunneld.lab import network
from tunneld.lab.capture import Capture
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.traffic import make_file, transfer

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

IP_ICMP = 20 + 8
FAMILIES = ["v4", "v6"] if network.HAS_IPV6 else ["v4"]


@pytest.mark.parametrize("mtu", [1299, 1300])
async def test_neither_pads_beyond_the_mtu(hosts, mtu):
    """The sizes are those of netns.sh, where a packet of 1360 bytes does not pass and an echo of 1269 has to."""
    both = await couple(hosts, mtu=mtu)
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    for sender, target in ((hosts.left, INSIDE["v4"][1]), (hosts.right, INSIDE["v4"][0])):
        for size in range(1250, mtu - IP_ICMP + 1):
            with Capture(hosts.left, "eth0") as wire:
                assert (await ping(sender, target, count=1, size=size)).lost == 0
            padded = -(-(size + IP_ICMP) // 16) * 16
            theirs = min(padded, mtu)
            ours = padded if padded <= mtu else size + IP_ICMP
            messages = [len(udp_payload(packet)) for packet in wire.packets if len(udp_payload(packet)) > 1000]
            request, answer = (ours, theirs) if sender is hosts.left else (theirs, ours)
            assert messages == [DATA + request, DATA + answer]
    assert both.daemon.child.running


@pytest.mark.parametrize("family", ["v4", "v6"])
async def test_packets_that_are_too_long_for_the_path_travel_in_fragments(hosts, tmp_path, family):
    """Inside 1500, as outside."""
    if family not in FAMILIES:
        needs_ipv6()
    await couple(hosts, outer=family, mtu=1500)
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    await carries(hosts, tmp_path, 1500)


@pytest.mark.parametrize("mtu", [9000 - 80, 34816 - 80])
async def test_jumbo_frames(hosts, tmp_path, mtu):
    for host in (hosts.left, hosts.right):
        await set_mtu(host, "eth0", mtu + 80)
    await couple(hosts, mtu=mtu)
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    with Capture(hosts.left, "eth0") as wire:
        await carries(hosts, tmp_path, mtu)
    assert max(len(udp_payload(packet)) for packet in wire.packets) == DATA + mtu


async def carries(hosts, directory, mtu):
    for sender, target in ((hosts.left, INSIDE["v4"][1]), (hosts.right, INSIDE["v4"][0])):
        assert (await ping(sender, target, count=3, interval=0.0, size=mtu - IP_ICMP)).lost == 0
    make_file(directory / "sent", 1_000_000)
    for family in FAMILIES:
        for sender, receiver, target in (
            (hosts.left, hosts.right, INSIDE[family][1]),
            (hosts.right, hosts.left, INSIDE[family][0]),
        ):
            assert (await transfer(sender, directory / "sent", receiver, directory / "got", (target, 7000))).intact


def needs_ipv6():
    if not network.HAS_IPV6:
        missing("this kernel has no IPv6")
