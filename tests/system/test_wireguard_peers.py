"""One hub and three members around it: tunneld with three wireguard-go, and wireguard-go with three tunnelds.

hub br0 203.0.113.1, inside 10.9.0.1 ──┬── one   eth0 203.0.113.11, inside 10.9.0.11, and a LAN of its own
                                       ├── two   eth0 203.0.113.12, inside 10.9.0.12, and a LAN of its own
                                       └── three eth0 203.0.113.13, inside 10.9.0.13, and a LAN of its own
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from tests.system.conftest import status_when
from tests.system.wireguard import Key, WireGuard, at, psk, tunneld
from tunneld.lab import network, sockets, topology
from tunneld.lab.host import Host
from tunneld.lab.ping import ping, wait_reachable

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

HUB, INSIDE = "203.0.113.1", "10.9.0.1"
MEMBERS = {"one": 11, "two": 12, "three": 13}


@dataclass
class Star:
    hub: Host
    members: dict[str, Host]
    hub_key: Key
    keys: dict[str, Key]
    psk: str  # of the member two


@pytest.fixture
async def star(lab):
    hub = lab.host("hub")
    await topology.lan(lab, hub, {name: [f"203.0.113.{number}/24"] for name, number in MEMBERS.items()})
    await network.give(hub, "br0", f"{HUB}/24")
    network.forward(hub)
    members = {name: lab.hosts[name] for name in MEMBERS}
    for name, number in MEMBERS.items():
        await network.give(members[name], "lo", f"10.{number}.0.1/16")
    return Star(hub, members, Key.generate(), {name: Key.generate() for name in MEMBERS}, psk())


def inside(name):
    return f"10.9.0.{MEMBERS[name]}"


def lan(name):
    return f"10.{MEMBERS[name]}.0.0/16"


async def test_tunneld_in_the_middle_of_three_wireguard_go(star):
    peers = [
        {"name": name, "public_key": star.keys[name].public, "allowed_ips": [f"{inside(name)}/32", lan(name)]}
        for name in MEMBERS
    ]
    peers[1]["preshared_key"] = star.psk
    hub = await tunneld(star.hub, star.hub_key, *peers, addresses=[f"{INSIDE}/24"])
    for name in MEMBERS:
        await go_member(star, name)
    await everybody_reaches_everybody(star)
    status = await status_when(hub, lambda status: all(peer["state"] == "up" for peer in status["peers"]))
    assert [peer["link"].rpartition(" ")[2] for peer in status["peers"]] == [
        at(f"203.0.113.{number}") for number in MEMBERS.values()
    ]
    assert status["causes"] == []


async def go_member(star, name):
    go = await WireGuard.start(star.members[name], star.keys[name], addresses=[f"{inside(name)}/24"])
    preshared_key = star.psk if name == "two" else ""
    others = ["10.9.0.0/24", *(lan(other) for other in MEMBERS if other != name)]
    await go.set_peer(star.hub_key.public, *others, preshared_key=preshared_key, endpoint=at(HUB))
    for prefix in others[1:]:
        done = await star.members[name].run(["ip", "route", "add", prefix, "dev", go.link])
        assert done.code == 0, done.output
    return go


async def test_wireguard_go_in_the_middle_of_three_tunnelds(star):
    hub = await go_hub(star)
    for name in MEMBERS:
        await tunneld_member(star, name)
    await everybody_reaches_everybody(star)
    for name, number in MEMBERS.items():
        assert (await hub.shown(star.keys[name].public)).endpoint == at(f"203.0.113.{number}")


async def go_hub(star):
    hub = await WireGuard.start(star.hub, star.hub_key, addresses=[f"{INSIDE}/24"])
    for name in MEMBERS:
        preshared_key = star.psk if name == "two" else ""
        await hub.set_peer(star.keys[name].public, f"{inside(name)}/32", lan(name), preshared_key=preshared_key)
        done = await star.hub.run(["ip", "route", "add", lan(name), "dev", hub.link])
        assert done.code == 0, done.output
    return hub


async def tunneld_member(star, name):
    peer = {
        "public_key": star.hub_key.public,
        "preshared_key": star.psk if name == "two" else "",
        "endpoint": at(HUB),
        "allowed_ips": ["10.9.0.0/24", *(lan(other) for other in MEMBERS if other != name)],
    }
    member = await tunneld(star.members[name], star.keys[name], peer, addresses=[f"{inside(name)}/24"])
    return member


async def everybody_reaches_everybody(star):
    """The hub, the other members by way of it, and from everywhere their LANs."""
    for member in star.members.values():
        await wait_reachable(member, INSIDE)
    for name, member in {"hub": star.hub, **star.members}.items():
        targets = [(inside(other), f"10.{MEMBERS[other]}.0.1") for other in MEMBERS if other != name]
        for target in itertools.chain(*targets):
            pinged = await ping(member, target, count=2, interval=0.0)
            assert (name, target, pinged.lost) == (name, target, 0)


async def test_a_more_specific_prefix_that_moves_takes_the_packets_along(star):
    """netns.sh: wireguard-go lets `one` send from all of the subnet, then but for the address that `two` has now."""
    hub = await go_hub(star)
    one = await tunneld_member(star, "one")
    await wait_reachable(star.members["one"], INSIDE)
    await hub.set_peer(star.keys["one"].public, "10.9.0.0/24")
    await network.give(star.members["one"], "t0", "10.9.0.99/32")
    assert await arrives(star.members["one"], "10.9.0.99", star.hub)
    await hub.set_peer(star.keys["two"].public, "10.9.0.99/32")
    assert not await arrives(star.members["one"], "10.9.0.99", star.hub)
    assert await arrives(star.members["one"], inside("one"), star.hub)
    await one.stop()


async def test_a_more_specific_prefix_that_moved_here_takes_the_packets_along(star):
    """The same with our configuration: what `two` has of the subnet of `one` is refused from `one`."""
    one = await go_member(star, "one")
    await network.give(star.members["one"], one.link, "10.9.0.99/32")
    first = {"allowed_ips": ["10.9.0.0/24"], "endpoint": at("203.0.113.11")}
    for others, passes in ((["10.9.0.98/32"], True), (["10.9.0.99/32"], False)):
        peers = [
            {**first, "name": "one", "public_key": star.keys["one"].public},
            {"name": "two", "public_key": star.keys["two"].public, "allowed_ips": others},
        ]
        hub = await tunneld(star.hub, star.hub_key, *peers, addresses=[f"{INSIDE}/24"])
        await wait_reachable(star.members["one"], INSIDE)
        assert await arrives(star.members["one"], "10.9.0.99", star.hub) is passes
        assert await hub.stop() == 0


async def arrives(sender, source, hub):
    """Whether a datagram from `source` comes out at the hub, behind a fresh handshake or not."""
    with (
        sockets.udp(hub, bind=(INSIDE, 7000)) as receiving,
        sockets.udp(sender, bind=(source, 7000), connect=(INSIDE, 7000)) as sending,
    ):
        sending.send(b"")
        # What comes behind it on the same way shows that it would have come.
        assert (await ping(sender, INSIDE, count=1)).lost == 0
        try:
            return receiving.recvfrom(10)[1][0] == source
        except BlockingIOError:
            return False
