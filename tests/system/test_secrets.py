"""No key is said anywhere: not by a daemon in trouble, not by a tool, nor by what the kernel tells of either.

left t0 ══ t0 right, and on right too: a peer of left that is this test, and so knows its session keys, and strangers

Every piece of 8 bytes of a secret is looked for, as it is, in base64, in hexadecimal and as Python shows bytes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.pieces import pieces_in
from tests.system.conftest import INSIDE, NAME, PORT, spawn, start, status_when
from tests.system.sealed import PSK, Sealed, hub_text, key_of
from tunneld import durable
from tunneld.edge import clock
from tunneld.keys import encode
from tunneld.lab import sockets
from tunneld.lab.child import Child, readable
from tunneld.lab.daemon import CLOCKED, Daemon
from tunneld.lab.host import Host
from tunneld.lab.ping import ping, wait_reachable
from tunneld.proto.handshake import Local, Remote, consume_response_untrusted, create_initiation
from tunneld.proto.profile import WIREGUARD, MessageType, Profile, tunneld_profile
from tunneld.proto.tai64n import Stamper

on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])

SECRETS = {"psk": PSK} | {name: bytes(key_of(name).raw) for name in ("left", "right", "test", "stranger")}
KEY_FILES = {".key", ".psk"}
PROFILES = {"tunneld": tunneld_profile("udp", "tun", "chacha20-poly1305"), "wireguard": WIREGUARD}
TROUBLE = {"not-for-our-key", "unknown-peer", "old-timestamp", "unreachable"}
REQUESTS = (b'{"request":"status"}', b'{"request":"keys"}', b'{"request":"\xff"}', b"[]", b"x" * 1000)
CLD_DUMPED = 3


@on_uvloop
@pytest.mark.parametrize("protocol", PROFILES)
async def test_a_daemon_in_trouble_says_nothing_of_its_keys(hosts, protocol):
    wall = set_wall(hosts.left, "0")
    right = Daemon.start(hosts.right, spoke(hosts, protocol), name=NAME)
    await right.wait_ready()
    left = Daemon.start(hosts.left, hub(hosts, protocol), name=NAME, options=("--wall", str(wall)), command=CLOCKED)
    await left.wait_ready()
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    with sockets.udp(hosts.right, connect=(hosts.left_v4, PORT)) as sock:
        secrets = SECRETS | await session_with_left(sock, PROFILES[protocol])
        for message in junk(PROFILES[protocol]):
            sock.send(message)
        await status_when(left, lambda status: {case["cause"] for case in status["causes"]} >= TROUBLE)
    told = {**await told_by(left), **await told_by(right)}
    await crash(left, hosts)
    assert await right.stop() == 0
    assert "Traceback" in left.log()
    assert given_away(secrets, told | files(hosts.left) | files(hosts.right)) == []


@on_uvloop
async def test_no_tool_says_anything_of_a_key_but_export_that_is_told_to(hosts):
    setup = Sealed(protocol="wireguard")
    await start(hosts, setup)
    host, file = hosts.left, str(hosts.left.run_dir / f"{NAME}.toml")
    tools = {
        "check": ("check", file),
        "refused": ("check", str(with_faults(host, setup.left(hosts)))),
        "plan": ("plan", file),
        "show": ("show", NAME),
        "json": ("show", "--json", NAME),
        "export": ("export", "--wg", file),
        "keys": ("export", "--wg", "--keys", file),
    }
    children, told = {}, {}
    for name, words in tools.items():
        child = children[name] = host.spawn([sys.executable, "-m", "tunneld", *words], name=name)
        child.signal(signal.SIGSTOP)  # or it might have ended before anybody has looked at it
        told |= dict(process_of(name, child))
        child.signal(signal.SIGCONT)
    codes = {name: await child.wait(20.0) for name, child in children.items()}
    assert codes == dict.fromkeys(tools, 0) | {"refused": 2}
    for fault in ("this is a key itself", 'character "*" at position', "has mode 0644"):
        assert fault in children["refused"].output()
    exported = (host.run_dir / "keys.log").read_bytes()
    (host.run_dir / "keys.log").unlink()
    assert [exported.count(encode(SECRETS[name])) for name in ("left", "psk", "right")] == [1, 1, 0]
    assert given_away(SECRETS, told | files(host)) == []


@on_uvloop
async def test_a_daemon_that_dies_leaves_no_core(hosts, tmp_path):
    there = ("sh", "-c", 'ulimit -c unlimited && cd "$0" && exec "$@"', str(tmp_path))
    control = hosts.left.spawn([*there, sys.executable, "-c", "import os; os.abort()"], name="control")
    if await end_of(control) != CLD_DUMPED:
        missing("no process leaves a core here")
    child = spawn(hosts.left, Sealed().left(hosts), prefix=there)
    async with asyncio.timeout(10.0):
        while not (hosts.left.run_dir / f"{NAME}.sock").exists():  # noqa: ASYNC110 (a file tells nobody)
            await asyncio.sleep(0.02)
    child.signal(6)
    assert await end_of(child) != CLD_DUMPED
    assert await child.wait(1.0) == -6


def test_the_search_finds_what_is_there(tmp_path):
    for form in (PSK, encode(PSK), PSK.hex().encode(), PSK.hex().upper().encode(), repr(PSK).encode()):
        assert given_away(SECRETS, {"log": b"said " + form + b"."}) == [("psk", "log")]


# --- the two ends


def hub(hosts, protocol: str) -> str:
    """left, which begins the session with right, knows the test, and has a peer where nobody is."""
    peers = {
        "right": {"endpoint": f"{hosts.right_v4}:{PORT}", "allowed_ips": ["10.9.0.2/32"]},
        "test": {"allowed_ips": ["10.9.0.3/32"]},
        "nobody": {"endpoint": f"{hosts.right_v4}:{PORT + 1}", "allowed_ips": ["10.9.0.4/32"], "keepalive": 1},
    }
    peers = {name: {**peer, "preshared_key_file": f"{NAME}.psk"} for name, peer in peers.items()}
    return hub_text(hosts.left, 1, peers, mode="tun", protocol=protocol, listen=f"[::]:{PORT}")


def spoke(hosts, protocol: str) -> str:
    peer = {"allowed_ips": ["10.9.0.1/32"], "preshared_key_file": f"{NAME}.psk"}
    return hub_text(hosts.right, 2, {"left": peer}, mode="tun", protocol=protocol, listen=f"[::]:{PORT}")


def set_wall(host: Host, wrong: str) -> Path:
    durable.replace(host.run_dir / "wall", wrong.encode())
    return host.run_dir / "wall"


async def session_with_left(sock, profile: Profile) -> dict[str, bytes]:
    """Make a session as the peer called "test", then repeat the initiation. Its keys, and the ephemeral one."""
    drawn: list[bytes] = []

    def draw(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    local = Local(profile, SECRETS["test"])
    stamp = Stamper().next(clock.wall())
    remote = Remote(key_of("left").public_key().raw, PSK)
    sent = create_initiation(local, remote, sender=1, timestamp=stamp, now=0.0, random=draw)
    sock.send(sent.message)
    async with asyncio.timeout(5.0):
        await readable(sock.fileno())
    keys = consume_response_untrusted(local, sent, sock.recv(2048))
    again = create_initiation(local, remote, sender=2, timestamp=stamp, now=0.0, random=draw)
    await asyncio.sleep(0.05)  # closer than that it is refused for its haste
    sock.send(again.message)
    data = profile.words[MessageType.DATA] + keys.receiver.to_bytes(4, "little")
    sock.send(data + random.Random(1).randbytes(100))
    return {"sent with": keys.send, "received with": keys.receive, "ephemeral": drawn[0]}


def junk(profile: Profile) -> Iterator[bytes]:
    """What others send: noise of every length, and initiations that are not for left, or of nobody that it knows."""
    noise = random.Random(2).randbytes
    yield from (profile.words[kind] + noise(size) for kind in MessageType for size in (0, 28, 60, 88, 144, 1000))
    for name, other in (("stranger", "left"), ("test", "stranger")):
        local = Local(profile, SECRETS[name])
        remote = Remote(key_of(other).public_key().raw)
        stamp = Stamper().next(clock.wall())
        yield create_initiation(local, remote, sender=3, timestamp=stamp, now=0.0, random=noise).message


async def crash(left: Daemon, hosts) -> None:
    """Its wall clock says nonsense when it begins the next handshake, which is a bug for all that it knows."""
    set_wall(hosts.left, "noon")
    left.move_clock()
    await ping(hosts.left, INSIDE["v4"][1], count=1, timeout=0.1)
    assert await left.child.wait(5.0) == 1


def with_faults(host: Host, text: str) -> Path:
    """A configuration with a key in the place of its file, a damaged key, and a file that others can read."""
    (host.run_dir / "damaged.psk").write_bytes(encode(PSK)[:-2] + b"*=\n")
    (host.run_dir / "damaged.psk").chmod(0o600)
    (host.run_dir / "open.psk").write_bytes(encode(PSK))
    (host.run_dir / "open.psk").chmod(0o644)
    own, peer = text.split("[[peer]]")
    own = own.replace(f"{NAME}.key", encode(SECRETS["left"]).decode())
    peers = [
        peer.replace(f"{NAME}.psk", f"{kind}.psk").replace('"right"', f'"{kind}"') for kind in ("damaged", "open")
    ]
    file = host.run_dir / "faults.key"  # not searched: it holds a key
    file.write_text("[[peer]]".join([own, *peers]))
    return file


# --- what is told


async def told_by(daemon: Daemon) -> dict[str, bytes]:
    """What a running daemon tells: by its process, and to whoever asks."""
    who = daemon.host.name
    told = dict(process_of(who, daemon.child))
    for request in REQUESTS:
        reader, writer = await asyncio.open_unix_connection(str(daemon.host.run_dir / f"{NAME}.sock"))
        writer.write(request + b"\n")
        told[f"{who}: answer to {request[:30]!r}"] = await reader.read()
        writer.close()
    assert all(told.values())
    return told


def process_of(name: str, child: Child) -> Iterator[tuple[str, bytes]]:
    for file in ("cmdline", "environ"):
        try:
            yield f"{name}: {file}", Path(f"/proc/{child.pid}/{file}").read_bytes()
        except PermissionError:
            yield f"{name}: {file}", b"nobody may read it"


def files(host: Host) -> dict[str, bytes]:
    """All that stands in the directories of a host, logs and state too, but for the key files."""
    return {
        str(path): path.read_bytes()
        for path in host.run_dir.rglob("*")
        if path.is_file() and path.suffix not in KEY_FILES
    }


def given_away(secrets: Mapping[str, bytes], told: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Which secret is given away, and where."""
    return [
        (name, where) for name, secret in secrets.items() for where, text in told.items() if pieces_in(secret, text)
    ]


async def end_of(child: Child) -> int:
    """How it ended, as waitid says it, before it is waited for."""
    pidfd = os.pidfd_open(child.pid)
    try:
        async with asyncio.timeout(5.0):
            await readable(pidfd)
    finally:
        os.close(pidfd)
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 (it has ended)
    assert ended is not None
    return ended.si_code
