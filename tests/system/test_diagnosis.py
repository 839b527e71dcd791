"""What is wrong between two ends is named where it can be known: in the log, by `show` and by `show --json`.

Left answers, right calls. Within two tries of a handshake the right one of them says what its operator has to mend.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import shlex
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import missing
from tests.system.conftest import INSIDE, NAME, PORT, status_when, toml, tunneld
from tests.system.sealed import Sealed, key_of
from tunneld.edge import clock
from tunneld.keys import encode
from tunneld.lab import sockets
from tunneld.lab.daemon import Daemon
from tunneld.lab.host import Host
from tunneld.lab.ping import ping, wait_reachable
from tunneld.proto.handshake import NO_PRESHARED_KEY, Local, Remote, create_initiation
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile
from tunneld.proto.tai64n import Stamper, later, stamp
from tunneld.stampfile import StampFile

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

# Two tries are 5 s and a jitter of a third of a second apart; the rest is for a machine that is busy.
TWO_TRIES = 10.0
NO_ANSWER = "host down, filtered, their key for us wrong, or mode/cipher/protocol differ"
OTHER_PSK = "handshake answered but preshared_key differs; set the same at both ends"
OURS = tunneld_profile("udp", "tun", "chacha20-poly1305")
RIGHT = "192.0.2.2:55555"
# Those that right calls, by name; each is a daemon of its own on the left, but for the last three.
PORTS = {"psk": 50001, "unknown": 50002, "cipher": 50003, "wrong": 50001, "silent": 50004, "refused": 50005}


@dataclass(frozen=True)
class Calling(Sealed):
    """Left does not know where right is."""

    def _text(self, end: int, tunnel: dict[str, Any], peer: dict[str, Any], more: dict[str, dict[str, Any]]) -> str:
        known = {key: value for key, value in peer.items() if key != "endpoint" or end == 1}
        return super()._text(end, tunnel, known, more)


async def test_every_mistake_of_a_hub_is_named_on_the_side_that_can_know_it(hosts):
    """right has a mistake with each of its six peers, and knows it of two."""
    public = {name: str(key_of(name).public_key()) for name in (*PORTS, "right", "nobody")}
    answering = {
        "psk": end(
            hosts.left, "psk", 1, [{"public_key": public["right"], "preshared_key_file": secret(hosts.left, "a")}]
        ),
        "unknown": end(hosts.left, "unknown", 2, [{"public_key": public["nobody"]}]),
        "cipher": end(hosts.left, "cipher", 3, [{"public_key": public["right"]}], cipher="aes-256-gcm"),
    }
    calling = [{"public_key": public[name], "endpoint": f"192.0.2.1:{port}"} for name, port in PORTS.items()]
    calling[0]["preshared_key_file"] = secret(hosts.right, "b")
    with sockets.udp(hosts.left, bind=("192.0.2.1", PORTS["silent"])):
        daemons = {name: Daemon.start(hosts.left, text, name=name) for name, text in answering.items()}
        for daemon in daemons.values():
            await daemon.wait_ready()
        daemons["right"] = Daemon.start(hosts.right, end(hosts.right, "right", 9, calling, names=PORTS), name="right")
        await daemons["right"].wait_ready()
        silent = {
            ("no-answer", name): f"{name}: connecting: no answer from 192.0.2.1:{PORTS[name]} (2 tries): {NO_ANSWER}"
            for name in ("unknown", "cipher", "wrong", "silent")
        }
        await are_told(
            daemons["right"],
            {
                ("bad-response", "psk"): f"peer psk: connecting: {OTHER_PSK}",
                ("unreachable", "refused"): "peer refused: connecting: port unreachable: nothing listens on UDP "
                "192.0.2.1:50005 there",
                **silent,
            },
        )
    await are_told(
        daemons["psk"],
        {
            (
                "unconfirmed",
                "right",
            ): 'peer "right": we answer its handshakes, but it never confirms: ',
            ("not-for-our-key", None): f"handshake from {RIGHT} was made for another public key than ours "
            f"({public['psk']}), or is noise; compare public_key there",
        },
    )
    await are_told(
        daemons["unknown"],
        {("unknown-peer", None): f"unknown peer public key {public['right']} from {RIGHT}; write it as public_key"},
    )
    await are_told(
        daemons["cipher"],
        {
            ("other-settings", None): f"peer at {RIGHT} speaks tunneld tun chacha20-poly1305, here it is tunneld tun "
            "aes-256-gcm; set protocol, mode and cipher alike"
        },
    )


async def test_a_clock_that_fell_back_is_named_by_the_peer_that_refuses_it(hosts):
    """The first run of right is 3 days and 4 hours ahead, and what it remembers of that is lost."""
    memory = StampFile(hosts.right.run_dir / "state" / f"{NAME}.stamp")
    memory.save(later(stamp(clock.wall()), 3 * 86_400 + 4 * 3_600 + 1_800))
    setup = Calling()
    left = Daemon.start(hosts.left, setup.left(hosts), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, setup.right(hosts), name=NAME)
    await right.wait_state("up")
    await left.wait_state("up")
    await right.kill()
    memory.path.unlink()
    right = Daemon.start(hosts.right, setup.right(hosts), name=NAME)
    await right.wait_ready()
    line = 'peer "right": timestamp 3 d 4 h older than the last accepted: its clock went back, or a replay; '
    remedy = f'tunneld peer reset-timestamp {NAME} "right"'
    await are_told(left, {("old-timestamp", "right"): f"{line}once it is set: {remedy}"})
    done = await tunneld(hosts.left, *shlex.split(remedy)[1:])
    assert done.output == f"{NAME}: peer right: its next handshake is taken, whatever its timestamp\n"
    await wait_reachable(hosts.left, INSIDE["v4"][1], TWO_TRIES)
    await status_when(left, lambda status: not status["causes"])


async def test_settings_that_differ_are_told_to_both_operators_and_what_lacks_in_allowed_ips_to_one(hosts):
    both = ["10.9.0.0/30", "10.8.0.0/24"]
    setup = Calling(interface={"mtu": 1300})
    left = Daemon.start(hosts.left, setup.left(hosts, interface={"mtu": 1400}, peer={"allowed_ips": both}), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, setup.right(hosts, peer={"allowed_ips": both}), name=NAME)
    await right.wait_ready()
    await wait_reachable(hosts.right, INSIDE["v4"][0])
    await hosts.right.run(["ip", "addr", "add", "10.7.0.9/32", "dev", "lo"])
    with sockets.udp(hosts.right, bind=("10.7.0.9", 0)) as stray:
        for _ in range(37):
            stray.sendto(b"not from here", (INSIDE["v4"][0], 9))
    overlap = (
        "allowed_ips has 10.9.0.0/30, 10.8.0.0/24 at both ends, each for the other; remove it where the network is"
    )
    told = {
        (left, "right"): "mtu is 1400 here and 1300 at the peer; set both to 1300",
        (right, "left"): "mtu is 1300 here and 1400 at the peer; set both to 1300",
    }
    for (daemon, peer), sentence in told.items():
        lines = {
            ("mtu-differs", peer): f'peer "{peer}": {sentence}',
            ("allowed-ips-differs", peer): f'peer "{peer}": {overlap}',
        }
        if daemon is left:
            lines["wrong-source", peer] = 'peer "right": dropped inner source 10.7.0.9 (not in allowed_ips), '
        await are_told(daemon, lines)


@pytest.mark.long
async def test_a_handshake_after_which_nothing_returns_is_told_after_15_s(hosts):
    """Of what left sends, only its answers to handshakes arrive."""
    if shutil.which("nft") is None:
        missing("nft is not installed: apt-get install nftables")
    only_handshakes = """
        nft add table inet filter
        nft add chain inet filter input '{ type filter hook input priority 0; }'
        nft add rule inet filter input udp sport 55555 @th,64,8 { 0x81, 0x84 } drop
    """
    assert (await hosts.right.run(["sh", "-ec", only_handshakes])).output == ""
    left = Daemon.start(hosts.left, Calling().left(hosts), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, Calling().right(hosts), name=NAME)
    line = 'peer "left": handshakes complete but nothing returns: check routes and firewall behind it'
    await right.wait_state("up")
    assert (await ping(hosts.right, INSIDE["v4"][0], count=1, timeout=0.1)).lost == 1
    await are_told(right, {("nothing-returns", "left"): line}, 18.0)
    assert causes(await left.status()) == {}


@pytest.mark.parametrize("calling", ["udp", "tcp"])
async def test_another_transport_is_told_to_the_side_that_calls_and_to_nobody_else(hosts, calling):
    answering = "tcp" if calling == "udp" else "udp"
    setups = {transport: Calling(transport) for transport in ("udp", "tcp")}
    left = Daemon.start(hosts.left, setups[answering].left(hosts), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, setups[calling].right(hosts), name=NAME)
    await right.wait_ready()
    lines = {
        "udp": {("unreachable", "left"): "port unreachable: nothing listens on UDP 192.0.2.1:55555 there"},
        "tcp": {("no-connection", "left"): "peer left: connecting: 192.0.2.1:55555: Connection refused"},
    }
    await are_told(right, lines[calling])
    assert causes(await left.status()) == {}
    assert RIGHT.partition(":")[0] not in left.log()


@pytest.mark.long
async def test_over_tcp_other_settings_are_named_by_the_side_that_is_called(hosts):
    left = Daemon.start(hosts.left, Calling("tcp", "tap").left(hosts), name=NAME)
    await left.wait_ready()
    right = Daemon.start(hosts.right, Calling("tcp", "tun", cipher="aes-256-gcm").right(hosts), name=NAME)
    await right.wait_ready()
    await are_told(right, {("no-connection", "left"): NO_ANSWER})
    spoken = "speaks tunneld tun aes-256-gcm, here it is tunneld tap chacha20-poly1305"
    await are_told(left, {("other-settings", None): spoken})


async def test_strangers_cannot_make_the_log_grow(hosts):
    left = Daemon.start(hosts.left, Calling().left(hosts), name=NAME)
    await left.wait_ready()
    before = len(left.log().splitlines())
    kinds = flood(random.Random(1))
    with sockets.udp(hosts.right, connect=(hosts.left_v4, PORT)) as sock:
        began = clock.now()
        for number in range(FLOOD):
            # Slowly at first: one of each kind is to be read before the daemon comes under load.
            if number < 2 * len(kinds):
                await asyncio.sleep(0.03)
            elif number % 50 == 0:
                await asyncio.sleep(0.002)
            with contextlib.suppress(BlockingIOError):
                sock.send(kinds[number % len(kinds)])
        status = await status_when(left, lambda status: sum(status["drops"].values()) > FLOOD / 4)
        took = clock.now() - began
    lines = left.log().splitlines()[before:]
    assert {cause for cause, _ in causes(status)} >= TOLD
    assert len(TOLD) <= len(lines) <= 10 * max(1.0, took)
    assert len({line.split(" ", 2)[2] for line in lines}) == len(lines)
    assert sum(map(len, lines)) < 3000


FLOOD = 20_000
TOLD = {"not-for-our-key", "bad-initiation", "unknown-peer", "other-settings", "old-timestamp", "no-cookie"}


def flood(choose: random.Random) -> list[bytes]:
    """What anybody on the way can send: noise, made of keys that are public, and messages of others."""
    stamps = Stamper()
    sent = [
        create_initiation(
            Local(profile, bytes(private.raw)),
            Remote(key_of(called).public_key().raw, NO_PRESHARED_KEY),
            sender=1,
            timestamp=stamps.next(clock.wall()),
            now=0.0,
            random=choose.randbytes,
        ).message
        for profile, private, called in (
            (OURS, key_of("right"), "left"),
            (OURS, key_of("stranger"), "left"),
            (OURS, key_of("right"), "somebody else"),
            (WIREGUARD, key_of("right"), "left"),
            (tunneld_profile("udp", "tap", "aes-256-gcm"), key_of("right"), "left"),
            (tunneld_profile("tcp", "tun", "chacha20-poly1305"), key_of("right"), "left"),
        )
    ]
    words = [OURS.words[kind] for kind in (MessageType.RESPONSE, MessageType.COOKIE, MessageType.DATA)]
    junk = [word + choose.randbytes(size - 4) for word, size in zip(words, (92, 64, 1400), strict=True)]
    texts = [b"", b"GET / HTTP/1.1\r\n\x1b[2J\r\n\r\n", choose.randbytes(148)]
    return [*sent, *junk, *texts]


def end(
    host: Host,
    name: str,
    number: int,
    peers: list[dict[str, Any]],
    names: Collection[str] = ("right",),
    **tunnel: Any,
) -> str:
    """The file of a tunnel of its own name, key, device and prefix, where each peer has one address."""
    (host.run_dir / f"{name}.key").write_bytes(encode(bytes(key_of(name).raw)) + b"\n")
    (host.run_dir / f"{name}.key").chmod(0o600)
    own = {
        "tunnel": {"private_key_file": f"{name}.key", "listen": f"[::]:{PORTS.get(name, PORT)}", **tunnel},
        "interface": {"name": f"{name}0", "addresses": [f"10.{number}.0.1/24"]},
    }
    texts = [
        toml(peer={"name": each, "allowed_ips": [f"10.{number}.0.{place}/32"], **peer})
        for place, (each, peer) in enumerate(zip(names, peers, strict=True), 2)
    ]
    return toml(**own) + "".join(texts)


def secret(host: Host, word: str) -> str:
    """A file with a preshared key that `word` stands for."""
    path = host.run_dir / f"{word}.psk"
    path.write_bytes(encode(hashlib.blake2s(word.encode()).digest()) + b"\n")
    path.chmod(0o600)
    return path.name


async def are_told(daemon: Daemon, lines: Mapping[tuple[str, str | None], str], timeout: float = TWO_TRIES) -> None:
    """Wait until `daemon` says these lines, by cause and peer: each once in its log, and in both forms of `show`."""
    await status_when(daemon, lambda status: lines.keys() <= causes(status).keys(), timeout)
    shown = await tunneld(daemon.host, "show", daemon.name)
    for_programs = await tunneld(daemon.host, "show", daemon.name, "--json")
    assert (shown.code, for_programs.code) == (0, 0)
    found, log = causes(json.loads(for_programs.output)), daemon.log()
    assert found.keys() == lines.keys()
    for cause, line in lines.items():
        assert log.count(line) == 1, log
        sentence = line.partition(": connecting: ")[2] or line
        # The tries go on being counted.
        assert sentence.rpartition("(2 tries)")[2] in found[cause]["sentence"]
        assert sentence.rpartition("(2 tries)")[2] in shown.output


def causes(status: dict[str, Any]) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(cause["cause"], cause["peer"]): cause for cause in status["causes"]}
