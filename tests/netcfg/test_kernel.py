"""The kernel object on both loops: the shim, the dumps, the errors, the watch."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import aclosing
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from tunneld.edge.device import Device
from tunneld.netcfg.kernel import Kernel, LinkChange
from tunneld.netcfg.model import PROTOCOL, KernelError, Link
from tunneld.netcfg.operation import (
    AddressAdd,
    AddressDel,
    BridgeAdd,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    PortJoin,
    PortLeave,
    RouteAdd,
    RouteDel,
)


async def test_each_operation_does_what_its_command_says(kernel, space):
    space.ip("link add p0 type veth peer name p1")
    address, six = ip_interface("10.9.0.1/24"), ip_interface("fd00:5::1/64")
    route, route6 = ip_network("10.20.0.0/16"), ip_network("fd00:20::/64")

    await kernel.execute(BridgeAdd("br0", "tunneld:x"))
    await kernel.execute(LinkSet("br0", "alias", "tunneld:x", ""))
    await kernel.execute(PortJoin("p0", "br0"))
    for attribute, value in (("mtu", 1400), ("txqueuelen", 77), ("address", "02:00:00:00:00:09"), ("state", "up")):
        await kernel.execute(LinkSet("p0", attribute, value, ""))
    shown = space.ip("-d link show p0")
    assert "mtu 1400" in shown
    assert "qlen 77" in shown
    assert "02:00:00:00:00:09" in shown
    assert "master br0" in shown
    assert "alias tunneld:x" in space.ip("link show br0")
    assert (await kernel.observe()).ports("br0") == {"p0"}

    await kernel.execute(PortLeave("p0", "br0"))
    await kernel.execute(AddressAdd("p0", address))
    await kernel.execute(AddressAdd("p0", six, flags=2))
    await kernel.execute(RouteAdd("p0", route))
    await kernel.execute(RouteAdd("p0", route6))
    assert "proto 250" in space.ip("route show 10.20.0.0/16")
    assert "proto 250" in space.ip("-6 route show fd00:20::/64")
    assert "fd00:5::1/64 scope global nodad" in space.ip("address show p0")
    observed = await kernel.observe()
    assert {a.protocol for a in observed.addresses if a.address in (address, six)} == {PROTOCOL}
    ours = {r.destination: r for r in observed.routes if r.protocol == PROTOCOL}
    assert ours.keys() == {route, route6}
    assert [ours[route].metric, ours[route6].metric] == [0, 1024]

    for undo in (RouteDel("p0", route), RouteDel("p0", route6), AddressDel("p0", address), AddressDel("p0", six)):
        await kernel.execute(undo)
    await kernel.execute(BridgeDel("br0", "tunneld:x"))
    left = await kernel.observe()
    assert left.link("br0") is None
    assert not left.routes or all(r.protocol != PROTOCOL for r in left.routes)
    assert not any(a.address in (address, six) for a in left.addresses)


async def test_link_local_flush_leaves_other_addresses(kernel, space):
    space.ip("link add p0 type veth peer name p1")
    for link in ("p0", "p1"):
        space.ip(f"link set {link} up")
    space.ip("address add fd00:7::1/64 dev p0 nodad")

    async def link_local():
        return [a for a in (await kernel.observe()).addresses if str(a.address).startswith("fe80")]

    await until(lambda: link_local(), lambda found: len(found) == 2)
    await kernel.execute(LinkLocalFlush("p0"))
    assert [a.link for a in await link_local()] == ["p1"]
    assert "fd00:7::1/64" in space.ip("address show p0")


async def test_links_are_seen_as_they_are(kernel, space):
    space.ip("tuntap add t0 mode tap")
    device = Device.open("t1", "tun", namespace=space.fd)
    try:
        observed = await kernel.observe()
    finally:
        device.close()
    tap, tun = observed.link("t0"), observed.link("t1")
    assert (tap.kind, tap.mode, tap.persistent, tap.mtu, tap.txqueuelen) == ("tun", "tap", True, 1500, 1000)
    assert tap.address in space.ip("link show t0")
    assert (tun.mode, tun.persistent, tun.address, tun.state) == ("tun", False, "", "down")
    assert tun == replace(Link.fresh("t1", "tun"), index=tun.index, addrgenmode="eui64")
    assert observed.link("lo").kind == ""


async def test_the_way_link_local_addresses_are_made_can_be_set(kernel, space):
    space.ip("link add br0 type bridge")
    for word in ("none", "random", "eui64"):
        await kernel.execute(LinkSet("br0", "addrgenmode", word, ""))
        assert (await kernel.observe()).link("br0").addrgenmode == word
        assert f"addrgenmode {word}" in space.ip("-d link show br0")


async def test_the_multicast_route_of_a_link_is_removed(kernel, space):
    for link in ("br0", "br1"):
        space.ip(f"link add {link} type bridge")
        space.ip(f"link set {link} up")
    await kernel.execute(MulticastDel("br0"))
    routes = space.ip("-6 route show table local type multicast")
    assert "br0" not in routes
    assert "br1" in routes


async def test_a_point_to_point_address_reaches_its_peer(kernel, space):
    space.ip("link add p0 type veth peer name p1")
    space.ip("address add 10.1.0.1 peer 10.2.0.0/24 dev p0")
    (found,) = (await kernel.observe()).on("p0")
    assert (found.address.ip, found.network) == (ip_interface("10.1.0.1").ip, ip_network("10.2.0.0/24"))


@pytest.mark.parametrize(
    ("operation", "code", "text"),
    [
        (LinkSet("none", "mtu", 1400, 1500), errno.ENODEV, "ip link set dev none mtu 1400: No such device"),
        (LinkSet("lo", "mtu", -1 & 0x7FFFFFFF, 1), 0, None),
        (AddressDel("lo", ip_interface("10.9.9.9/32")), errno.EADDRNOTAVAIL, "address del 10.9.9.9/32 dev lo: "),
        (RouteDel("lo", ip_network("10.9.9.0/24")), errno.ESRCH, "ip route del 10.9.9.0/24 dev lo proto 250: "),
        (RouteAdd("p0", ip_network("10.9.9.0/24")), errno.ENETDOWN, "Device for nexthop is not up"),
        (LinkSet("p0", "mtu", 2, 1500), errno.EINVAL, "mtu less than device minimum"),
    ],
)
async def test_an_error_is_one_line_with_the_command_and_the_reason(kernel, space, operation, code, text):
    space.ip("link add p0 type veth peer name p1")
    if text is None:
        await kernel.execute(operation)
        return
    with pytest.raises(KernelError) as caught:
        await kernel.execute(operation)
    assert caught.value.errno == code
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_many_requests_share_one_socket(kernel, space):
    space.ip("link set lo up")
    prefixes = [ip_network(f"10.{i // 256}.{i % 256}.0/24") for i in range(500)]
    await asyncio.gather(*(kernel.execute(RouteAdd("lo", prefix)) for prefix in prefixes))
    found = {route.destination for route in (await kernel.observe()).routes if route.protocol == PROTOCOL}
    assert found == set(prefixes)
    results = await asyncio.gather(
        *(kernel.execute(RouteDel("lo", prefix)) for prefix in [*prefixes, *prefixes]), return_exceptions=True
    )
    assert [result.errno for result in results if isinstance(result, KernelError)] == [errno.ESRCH] * 500
    assert not any(route.protocol == PROTOCOL for route in (await kernel.observe()).routes)


async def test_opening_and_closing_leaks_no_descriptor(space):
    async def once():
        async with Kernel.open(space.fd) as kernel:
            await kernel.observe()

    await once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await once()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_each_namespace_has_a_kernel_of_its_own(kernel, space):
    async with Kernel.open() as here:
        await kernel.execute(BridgeAdd("brx", "tunneld:x"))
        assert (await here.observe()).link("brx") is None
        assert (await kernel.observe()).link("brx") is not None


async def test_a_descriptor_that_is_no_namespace_is_one_line():
    wrong = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(KernelError, match=r"^cannot open a netlink socket: "):
            async with Kernel.open(wrong):
                pass
    finally:
        os.close(wrong)


async def test_watch_reports_what_is_there_then_every_change(kernel, space):
    async with aclosing(kernel.watch()) as changes:
        first = await anext(changes)
        assert (first.name, first.deleted) == ("lo", False)
        space.ip("link add br0 type bridge")
        assert await until_change(changes, "br0", up=False)
        space.ip("link set br0 up")
        assert await until_change(changes, "br0", up=True)
        space.ip("link del br0")
        gone = await until_change(changes, "br0", deleted=True)
        assert gone.index


async def test_a_port_that_leaves_its_bridge_is_not_deleted(kernel, space):
    space.ip("link add br0 type bridge")
    space.ip("link add p0 type veth peer name p1")
    space.ip("link set p0 master br0")
    async with aclosing(kernel.watch()) as changes:
        seen = [await anext(changes)]
        space.ip("link set p0 nomaster")
        space.ip("link add end type bridge")
        while seen[-1].name != "end":
            seen.append(await asyncio.wait_for(anext(changes), 5))
    assert not any(change.deleted for change in seen)


async def test_watch_catches_up_when_the_kernel_had_to_drop(kernel, space):
    space.ip("link add gone type bridge")
    async with aclosing(kernel.watch(receive_buffer=4096)) as changes:
        while (await anext(changes)).name != "gone":
            pass
        # No await in between: the small buffer overflows before the loop can read it.
        space.ip("link del gone")
        for number in range(30):
            space.ip(f"link add b{number} type bridge")
        space.ip("link del b0")
        assert await until_change(changes, "gone", deleted=True)
        assert await until_change(changes, "b29")
        space.ip("link del b29")
        assert await until_change(changes, "b29", deleted=True)


async def until_change(changes, name: str, **wanted) -> LinkChange:
    """The next change of `name` that has these values; at most 5 s away."""
    async with asyncio.timeout(5):
        while True:
            change = await anext(changes)
            if change.name == name and all(getattr(change, key) == value for key, value in wanted.items()):
                return change


async def until(look, good):
    """Look again and again, for at most 5 s, until it is good."""
    for _ in range(500):
        if good(found := await look()):
            return found
        await asyncio.sleep(0.01)
    raise TimeoutError
