"""A tunnel between tunneld and wireguard-go, as two people have it who never met: it works, and both say so.

left eth0 192.0.2.1 ──────────── 192.0.2.2 eth0 right      outside
left t0    10.9.0.1 ============ 10.9.0.2  wg1  right      inside: tunneld left, wireguard-go right
"""

from __future__ import annotations

import signal
import sys

import pytest

from tests.conftest import missing
from tests.system.conftest import BACK_AGAIN, INSIDE, NAME, complaints, inside, status_when
from tests.system.wireguard import (
    DATA,
    INITIATION,
    RESPONSE,
    Key,
    WireGuard,
    at,
    configuration,
    couple,
    host_prefixes,
    is_initiation,
    is_response,
    needs_wireguard_go,
    psk,
    tunneld,
    udp_payload,
    until,
)
from tunneld.lab import network
from tunneld.lab.capture import Capture
from tunneld.lab.daemon import CLOCKED, Daemon
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.traffic import make_file, transfer

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.usefixtures("iproute2")]

FAMILIES = ["v4", "v6"] if network.HAS_IPV6 else ["v4"]
SIZE = 300_000
ECHO = 84  # bytes of an IPv4 packet with an echo of 56 bytes in it


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
    await both.agree()  # after the files wireguard-go may lack what its socket had no room for
    make_file(tmp_path / "sent", SIZE)
    for family in FAMILIES:
        for sender, receiver, target in (
            (hosts.left, hosts.right, INSIDE[family][1]),
            (hosts.right, hosts.left, INSIDE[family][0]),
        ):
            assert (await transfer(sender, tmp_path / "sent", receiver, tmp_path / "got", (target, 7000))).intact


async def test_the_counters_are_exact(hosts):
    """As those of the kernel's netns.sh: ten echoes, and what a handshake takes."""
    both = await couple(hosts, initiator="tunneld")
    await until(both.is_up)
    assert (await ping(hosts.right, INSIDE["v4"][0], count=10, interval=0.0)).lost == 0
    echoes = 10 * (DATA + ECHO + -ECHO % 16)
    assert await both.agree() == (RESPONSE + echoes, INITIATION + DATA + echoes)


async def test_both_begin_at_the_same_moment(hosts):
    """wireguard-go wakes up with a packet for us and our initiation waiting."""
    both = await couple(hosts, initiator="wireguard-go")
    await both.daemon.stop()
    with Capture(hosts.right, "eth0") as wire:
        both.wireguard.child.signal(signal.SIGSTOP)
        peer = {"public_key": both.theirs.public, "allowed_ips": ["10.9.0.2/32"], "endpoint": at(hosts.right_v4)}
        await tunneld(hosts.left, both.ours, peer, addresses=inside(0))
        await wire.wait_for(is_initiation)
        assert (await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.05)).lost == 1
        both.wireguard.child.signal(signal.SIGCONT)
    for host, target in ((hosts.left, INSIDE["v4"][1]), (hosts.right, INSIDE["v4"][0])):
        await wait_reachable(host, target, timeout=1.0)
        assert (await ping(host, target, count=10, interval=0.01)).lost == 0


async def test_initiations_that_cross(hosts):
    """Two minutes are over for us, and wireguard-go has lost its keys: each begins before it heard of the other."""
    both = await couple(hosts, initiator="tunneld", command=CLOCKED)
    await until(both.is_up)
    both.daemon.child.signal(signal.SIGSTOP)
    await both.wireguard.wg("set", both.wireguard.link, "peer", both.ours.public, "remove")
    await both.wireguard.set_peer(both.ours.public, *host_prefixes(inside(0)), endpoint=at(hosts.left_v4))
    with Capture(hosts.left, "eth0") as wire:
        assert (await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.05)).lost == 1
        await wire.wait_for(is_initiation)
        both.wireguard.child.signal(signal.SIGSTOP)
        both.daemon.move_clock()
        assert (await ping(hosts.left, INSIDE["v4"][1], count=1, timeout=0.05)).lost == 1
        both.daemon.child.signal(signal.SIGCONT)
        await wire.wait_for(lambda packet: packet.outgoing and is_initiation(packet))
        await wire.wait_for(lambda packet: packet.outgoing and is_response(packet))
        both.wireguard.child.signal(signal.SIGCONT)
    for host, target in ((hosts.left, INSIDE["v4"][1]), (hosts.right, INSIDE["v4"][0])):
        await wait_reachable(host, target, timeout=1.0)
        assert (await ping(host, target, count=10, interval=0.01)).lost == 0


@pytest.mark.parametrize("side", ["tunneld", "wireguard-go"])
async def test_an_end_that_is_killed_and_knows_the_way_is_back_when_it_runs(hosts, side):
    both = await couple(hosts, initiator=side)
    await wait_reachable(hosts.left if side == "tunneld" else hosts.right, INSIDE["v4"][side == "tunneld"])
    if side == "tunneld":
        await both.daemon.kill()
        daemon = Daemon.start(hosts.left, both.daemon.config.read_text(), name=both.daemon.name)
        await daemon.wait_ready()
    else:
        daemon = both.daemon
        await both.wireguard.child.kill()
        again = await WireGuard.start(hosts.right, both.theirs, addresses=inside(1))
        await again.set_peer(both.ours.public, *host_prefixes(inside(0)), endpoint=at(hosts.left_v4))
    for host, target in ((hosts.right, INSIDE["v4"][0]), (hosts.left, INSIDE["v4"][1])):
        await wait_reachable(host, target, timeout=BACK_AGAIN)
    assert complaints(daemon.log()) == []


async def test_a_key_that_changes_there_is_named_here_and_has_to_be_changed_here_too(hosts):
    both = await couple(hosts)
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    new = Key.generate()
    await both.wireguard.set_key(new)
    await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.1)
    status = await status_when(both.daemon, lambda status: status["causes"] != [])
    (cause,) = status["causes"]
    assert cause["cause"] == "unknown-peer"
    assert new.public in cause["sentence"]
    assert (await ping(hosts.left, INSIDE["v4"][1], count=1, timeout=0.1)).lost == 1
    text = both.daemon.config.read_text().replace(both.theirs.public, new.public)
    assert await both.daemon.stop() == 0
    await Daemon.start(hosts.left, text, name=both.daemon.name).wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0], timeout=BACK_AGAIN)


async def test_preshared_keys_that_differ_are_named(hosts):
    both = await couple(hosts, initiator="tunneld", preshared_key=psk())
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    await both.wireguard.set_peer(both.ours.public, preshared_key=psk())
    await both.daemon.stop()
    daemon = Daemon.start(hosts.left, both.daemon.config.read_text(), name=both.daemon.name)
    await daemon.wait_ready()
    status = await status_when(daemon, lambda status: status["causes"] != [])
    assert [cause["cause"] for cause in status["causes"]] == ["bad-response"]
    assert "preshared_key differs" in status["causes"][0]["sentence"]


# netns.sh: what is left of these keys after a curve operation is zero, whatever the private key.
LOW_ORDER = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
]


async def test_a_key_of_low_order_is_refused_and_not_one_byte_is_sent(hosts):
    with Capture(hosts.left, "eth0") as wire:
        refused = Daemon.start(hosts.left, calls(hosts, *LOW_ORDER), name="low")
        assert await refused.child.wait(10.0) == 2
        complaints = refused.log().splitlines()
        assert len(complaints) == len(LOW_ORDER)
        assert all("public_key: " in complaint for complaint in complaints)
        assert not any(udp_payload(packet) for packet in wire.packets)
        await Daemon.start(hosts.left, calls(hosts, Key.generate().public), name="good").wait_ready()
        await wire.wait_for(udp_payload)


def calls(hosts, *publics):
    peers = [
        {"name": public, "public_key": public, "allowed_ips": [f"10.9.0.{last}/32"], "endpoint": at(hosts.right_v4)}
        for last, public in enumerate(publics, 2)
    ]
    return configuration(hosts.left, Key.generate(), *peers, addresses=inside(0))


SHOWN = """
wg showconf "$LINK" >shown
{ sed '/^\\[Peer\\]/,$d' shown; echo "Address = 10.9.0.2/24"; sed -n '/^\\[Peer\\]/,$p' shown; } >t.conf
"$PYTHON" -m tunneld import t.conf
"$PYTHON" -m tunneld check ./t.toml
"""
EXPORTED = """
"$PYTHON" -m tunneld export --wg --keys ./t.toml >t.conf
wg-quick strip ./t.conf >stripped
"""


async def test_each_end_takes_over_the_file_of_the_other(hosts):
    """`wg showconf` there becomes our configuration, then ours there that of wireguard-go: the ends have changed."""
    needs_wireguard_go("wg-quick")
    both = await couple(hosts, preshared_key=psk())
    await wait_reachable(hosts.left, INSIDE["v4"][1])

    await script(hosts.right, SHOWN, LINK=both.wireguard.link)
    await both.wireguard.child.kill()
    ours = Daemon.start(hosts.right, (hosts.right.run_dir / "t.toml").read_text(), name=NAME)
    await ours.wait_ready()
    await wait_reachable(hosts.left, INSIDE["v4"][1])

    await script(hosts.left, EXPORTED)
    assert await both.daemon.stop() == 0
    theirs = await WireGuard.start(hosts.left, Key.generate(), addresses=inside(0))
    await theirs.wg("setconf", theirs.link, str(hosts.left.run_dir / "stripped"))
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    shown = await theirs.shown(both.theirs.public)
    assert shown.endpoint == at(hosts.right_v4)
    assert complaints(ours.log()) == []


async def script(host, text, **env):
    assigned = [f"{name}={value}" for name, value in {"PYTHON": sys.executable, **env}.items()]
    lines = f'umask 077; cd "$RUNTIME_DIRECTORY"\n{text}'
    done = await host.run(["env", *assigned, "sh", "-exc", lines], timeout=20)
    assert done.code == 0, done.output
