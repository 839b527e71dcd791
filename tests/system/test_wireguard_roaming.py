"""Ends that move, NATs, and what must not move an end: tunneld on the left, wireguard-go on the right."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE, inside, status_when
from tests.system.wireguard import (
    PORT,
    RESPONSE,
    Key,
    WireGuard,
    at,
    couple,
    is_initiation,
    tunneld,
    udp_payload,
    until,
)
from tunneld.lab import network, sockets, topology
from tunneld.lab.capture import Capture
from tunneld.lab.child import readable
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.shell import Session

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

LEFT, RIGHT = INSIDE["v4"]
SHELL_PORT = 7000
ELSEWHERE = ("192.0.2.77", "2001:db8::77")
OTHER_PORT = 4000
FORGETS = 2  # seconds after which the NAT forgets
FORGOTTEN = FORGETS + 0.7  # when it surely has


async def test_a_shell_outlives_all_the_moves_of_wireguard_go(hosts):
    """To another address, another port, to IPv6, to another address there, and back."""
    needs_ipv6()
    both = await couple(hosts)
    await wait_reachable(hosts.right, LEFT)
    go = both.wireguard
    async with Session.open(hosts.right, hosts.left, (LEFT, SHELL_PORT)) as shell:

        async def is_followed(where):
            assert (await shell.type("echo $HOST")).answer.splitlines()[-1] == "left"
            await until(lambda: goes_to(both, where))

        await is_followed(at(hosts.right_v4))
        await exchange(hosts.right, hosts.right_v4, ELSEWHERE[0])
        # Without this it would go on sending from the address that is gone.
        await go.set_peer(both.ours.public, endpoint=at(hosts.left_v4))
        await is_followed(at(ELSEWHERE[0]))
        await go.wg("set", go.link, "listen-port", str(OTHER_PORT))
        await is_followed(at(ELSEWHERE[0], OTHER_PORT))
        await go.set_peer(both.ours.public, endpoint=at(hosts.left_v6))
        await is_followed(at(hosts.right_v6, OTHER_PORT))
        await exchange(hosts.right, hosts.right_v6, ELSEWHERE[1])
        await go.set_peer(both.ours.public, endpoint=at(hosts.left_v6))
        await is_followed(at(ELSEWHERE[1], OTHER_PORT))
        await go.wg("set", go.link, "listen-port", str(PORT))
        await go.set_peer(both.ours.public, endpoint=at(hosts.left_v4))
        await is_followed(at(ELSEWHERE[0]))


@pytest.mark.parametrize("outer", ["v4", "v6"])
async def test_a_shell_outlives_the_move_of_tunneld(hosts, outer):
    if outer == "v6":
        needs_ipv6()
    both = await couple(hosts, outer=outer)
    await wait_reachable(hosts.left, RIGHT)
    there = ELSEWHERE[outer == "v6"]
    async with Session.open(hosts.left, hosts.right, (RIGHT, SHELL_PORT)) as shell:
        await exchange(hosts.left, getattr(hosts, f"left_{outer}"), there)
        assert (await shell.type("echo $HOST")).answer.splitlines()[-1] == "right"
    assert (await both.shown()).endpoint == at(there)


async def exchange(host, before, after):
    """`host` has the address `after` on its cable in the place of `before`."""
    length = 64 if ":" in before else 24
    done = await host.run(["ip", "addr", "del", f"{before}/{length}", "dev", "eth0"])
    assert done.code == 0, done.output
    await network.give(host, "eth0", f"{after}/{length}")


async def goes_to(both, where):
    return ((await both.peer())["link"] or "").endswith(f" → {where}")


async def test_what_is_refused_inside_still_shows_where_the_peer_is(hosts):
    """netns.sh: an inner source that is nobody's is dropped, but its message was authentic."""
    both = await couple(hosts)
    await wait_reachable(hosts.right, LEFT)
    go, source = both.wireguard, "10.9.0.9"
    await network.give(hosts.right, go.link, f"{source}/32")
    await go.wg("set", go.link, "listen-port", str(OTHER_PORT))
    with (
        sockets.udp(hosts.left, bind=(LEFT, SHELL_PORT)) as receiving,
        sockets.udp(hosts.right, bind=(source, SHELL_PORT), connect=(LEFT, SHELL_PORT)) as sending,
    ):
        sending.send(b"from nobody")
        status = await status_when(both.daemon, lambda status: status["causes"] != [])
        assert (status["causes"][0]["cause"], status["causes"][0]["count"]) == ("wrong-source", 1)
        await until(lambda: goes_to(both, at(hosts.right_v4, OTHER_PORT)))
        with pytest.raises(BlockingIOError):
            receiving.recv(100)
    assert (await ping(hosts.left, RIGHT, count=3, interval=0.0)).lost == 0


async def test_an_initiation_replayed_after_our_restart_moves_nothing(hosts):
    both = await couple(hosts, initiator="wireguard-go")
    with Capture(hosts.left, "eth0") as wire:
        await wait_reachable(hosts.right, LEFT)
        recorded = udp_payload(await wire.wait_for(is_initiation))
    await both.daemon.kill()
    peer = {"public_key": both.theirs.public, "allowed_ips": ["10.9.0.2/32"], "endpoint": at(hosts.right_v4)}
    both.daemon = await tunneld(hosts.left, both.ours, peer, addresses=inside(0))
    await wait_reachable(hosts.left, RIGHT)
    await network.give(hosts.right, "eth0", f"{ELSEWHERE[0]}/24")
    with sockets.udp(hosts.right, bind=(ELSEWHERE[0], PORT + 1), connect=(hosts.left_v4, PORT)) as attacker:
        attacker.send(recorded)
        await readable(attacker.fileno())
        assert len(attacker.recv(2000)) == RESPONSE  # we do not remember who was here before
        for host, target in ((hosts.left, RIGHT), (hosts.right, LEFT)):
            assert (await ping(host, target, count=20, interval=0.01)).lost == 0
        assert await goes_to(both, at(hosts.right_v4))
        attacker.send(recorded)  # and this time we remember
        await status_when(both.daemon, lambda status: status["drops"].get("old-timestamp") == 1)
        with pytest.raises(BlockingIOError):
            attacker.recv(2000)


async def test_a_keepalive_of_a_second_keeps_a_nat_open_that_forgets_after_two(lab):
    """left ── router with NAT ── right: both kinds of ends behind it, and one that does not keep it open.

    left  t0, keepalive 1 ── right wg      left  t1, no keepalive ── right wg
    left  wg, keepalive 1 ── right t0
    """
    hosts = await topology.routed(lab)
    await translate(hosts.router, "east")
    kept = await behind_nat(hosts, 0, keepalive=1)
    lost = await behind_nat(hosts, 1, keepalive=0)
    go = await go_behind_nat(hosts, 2, keepalive=1)
    for at_right, number in ((kept, 0), (lost, 1), (go, 2)):
        await wait_reachable(hosts.left, f"10.{number}.0.2")
        assert await at_right() == hosts.east_v4  # the NAT's
    await asyncio.sleep(FORGOTTEN)
    for number, answered in ((0, 1), (1, 0), (2, 1)):
        pinged = await ping(hosts.right, f"10.{number}.0.1", count=1, timeout=0.3)
        assert (number, len(pinged.times)) == (number, answered)


async def translate(router, link):
    if shutil.which("nft") is None:
        missing("nft is not installed: apt-get install nftables")
    rule = f"table ip nat {{ chain out {{ type nat hook postrouting priority 100; oifname {link} masquerade; }}; }}"
    done = await router.run(["nft", rule])
    assert done.code == 0, done.output
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        path = Path("/proc/sys/net/netfilter", name)
        router.call(lambda path=path: path.write_text(str(FORGETS)))


async def behind_nat(hosts, number, *, keepalive):
    """tunneld left and wireguard-go right; what tells where the latter finds the former."""
    ours, theirs, port = Key.generate(), Key.generate(), PORT + number
    go = await WireGuard.start(hosts.right, theirs, port=port, addresses=[f"10.{number}.0.2/24"])
    await go.set_peer(ours.public, f"10.{number}.0.1/32")
    peer = {
        "public_key": theirs.public,
        "allowed_ips": [f"10.{number}.0.2/32"],
        "endpoint": at(hosts.right_v4, port),
        "keepalive": keepalive,
    }
    await tunneld(hosts.left, ours, peer, addresses=[f"10.{number}.0.1/24"], listen=None, name=f"t{number}")

    async def found():
        return (await go.shown(ours.public)).endpoint.rpartition(":")[0]

    return found


async def go_behind_nat(hosts, number, *, keepalive):
    """The other way round."""
    ours, theirs, port = Key.generate(), Key.generate(), PORT + number
    peer = {"public_key": theirs.public, "allowed_ips": [f"10.{number}.0.1/32"]}
    daemon = await tunneld(
        hosts.right, ours, peer, addresses=[f"10.{number}.0.2/24"], listen=f"[::]:{port}", name=f"t{number}"
    )
    go = await WireGuard.start(hosts.left, theirs, port=port, addresses=[f"10.{number}.0.1/24"])
    where = at(hosts.right_v4, port)
    await go.set_peer(ours.public, f"10.{number}.0.2/32", endpoint=where, persistent_keepalive=keepalive)

    async def found():
        status = await status_when(daemon, lambda status: status["peers"][0]["link"] is not None)
        return status["peers"][0]["link"].split()[-1].rpartition(":")[0]

    return found


def needs_ipv6():
    if not network.HAS_IPV6:
        missing("this kernel has no IPv6")
