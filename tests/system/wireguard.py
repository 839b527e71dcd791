"""wireguard-go in a host of the lab, configured by `wg`, and a tunneld that speaks with it.

left eth0 192.0.2.1 ──────────── 192.0.2.2 eth0 right      outside
left t0    10.9.0.1 ============ 10.9.0.2  wg1  right      inside: tunneld left, wireguard-go right
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conftest import missing
from tests.system.conftest import LINK, NAME, inside, toml
from tunneld.keys import PrivateKey, encode
from tunneld.lab import network
from tunneld.lab.capture import Packet
from tunneld.lab.child import Child
from tunneld.lab.daemon import RUN, Daemon
from tunneld.lab.host import Host
from tunneld.lab.topology import Pair
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import LinkSet
from tunneld.proto.cookie import CookieJar
from tunneld.proto.profile import WIREGUARD, MessageType

PORT = 51820
# Bytes of the messages; of a data message, those that are not the packet and its padding.
INITIATION, RESPONSE, DATA = 148, 92, 16 + 16

# wireguard-go puts its socket where every host of this run sees it, so no two may have the same device name.
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Key:
    """A key pair in base64, as `wg` and tunneld write it."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> Key:
        key = PrivateKey(bytearray(secrets.token_bytes(32)))
        return cls(encode(key.raw).decode(), str(key.public_key()))


def psk() -> str:
    return encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Shown:
    """A peer as `wg show` has it: `handshake` in seconds since 1970, 0 for none; `received` and `sent` in bytes."""

    endpoint: str
    allowed_ips: frozenset[str]
    handshake: int
    received: int
    sent: int


class WireGuard:
    """One running wireguard-go with its device `link`."""

    def __init__(self, host: Host, link: str, child: Child) -> None:
        self.host = host
        self.link = link
        self.child = child

    @classmethod
    async def start(
        cls, host: Host, key: Key, *, port: int = PORT, addresses: Sequence[str] = (), mtu: int | None = None
    ) -> WireGuard:
        """A device that is up, has `addresses`, and has no peer. `port` 0 lets the system choose."""
        needs_wireguard_go()
        link = f"wg{next(_numbers)}"
        wireguard = cls(host, link, await run_wireguard_go(host, link))
        await wireguard.set_key(key)
        await wireguard.wg("set", link, "listen-port", str(port))
        if mtu is not None:
            await set_mtu(host, link, mtu)
        await network.set_state(host, link, "up")
        await network.give(host, link, *addresses)
        return wireguard

    async def wg(self, *words: str) -> str:
        """`wg WORDS`, which has to succeed; what it printed."""
        done = await self.host.run(["wg", *words])
        assert done.code == 0, done.output
        return done.output

    async def set_key(self, key: Key) -> None:
        await self.wg("set", self.link, "private-key", self._file("key", key.private))

    async def set_peer(self, public: str, *allowed_ips: str, preshared_key: str = "", **settings: object) -> None:
        """Add the peer, or change it; what is not given stays. `settings` are those of `wg set`, with _ for -."""
        words = ["preshared-key", self._file("psk", preshared_key)] if preshared_key else []
        for name, value in settings.items():
            words += [name.replace("_", "-"), str(value)]
        if allowed_ips:
            words += ["allowed-ips", ",".join(allowed_ips)]
        await self.wg("set", self.link, "peer", public, *words)

    async def shown(self, public: str) -> Shown:
        """What `wg show` says of a peer. Raises KeyError: it has none such."""
        rows = (line.split("\t") for line in (await self.wg("show", self.link, "dump")).splitlines()[1:])
        _, _, endpoint, allowed_ips, handshake, received, sent, _ = {row[0]: row for row in rows}[public]
        return Shown(endpoint, frozenset(allowed_ips.split(",")), int(handshake), int(received), int(sent))

    def _file(self, kind: str, secret: str) -> str:
        path = self.host.run_dir / f"{self.link}.{kind}"
        path.write_text(secret + "\n")
        return str(path)


async def run_wireguard_go(host: Host, link: str) -> Child:
    """The process that has made the device `link`, and listens to `wg`.

    Not before it says so: `wg` removes a socket on which nobody listens, be it for want of time.
    """
    child = host.spawn(["wireguard-go", "-f", link], name=link, env={"LOG_LEVEL": "verbose"})

    async def listens() -> bool:
        assert child.running, child.output()
        return "UAPI listener started" in child.output()

    await until(listens)
    return child


async def set_mtu(host: Host, link: str, mtu: int) -> None:
    """Raises KernelError."""
    async with Kernel.open(host.namespace) as kernel:
        await kernel.execute(LinkSet(link, "mtu", mtu, ""))


def needs_wireguard_go(*programs: str) -> None:
    """Skip where it, or `wg` to configure it, or another of its `programs` is missing."""
    for program in ("wireguard-go", "wg", *programs):
        package = "wireguard-go" if program == "wireguard-go" else "wireguard-tools"
        if shutil.which(program) is None:
            missing(f"{program} is not installed: apt-get install {package}")


async def tunneld(
    host: Host,
    key: Key,
    *peers: Mapping[str, Any],
    addresses: Sequence[str],
    listen: str | None = f"[::]:{PORT}",
    name: str = NAME,
    command: Sequence[str] = RUN,
    **interface: object,
) -> Daemon:
    """A daemon, ready, that speaks `wireguard` on the device NAME0. What is a `preshared_key` is put into a file."""
    text = configuration(host, key, *peers, addresses=addresses, listen=listen, link=f"{name}0", **interface)
    daemon = Daemon.start(host, text, name=name, command=command)
    await daemon.wait_ready()
    return daemon


def configuration(
    host: Host,
    key: Key,
    *peers: Mapping[str, Any],
    addresses: Sequence[str],
    listen: str | None = f"[::]:{PORT}",
    link: str = LINK,
    **interface: object,
) -> str:
    """The file of such a daemon, and beside it the files of its keys."""
    tunnel = {"protocol": "wireguard", "private_key_file": _key_file(host, "key", key.private)}
    sections = {
        "tunnel": tunnel if listen is None else {**tunnel, "listen": listen},
        "interface": {"name": link, "addresses": list(addresses), **interface},
    }
    text = toml(**sections)
    for peer in peers:
        values = dict(peer)
        if preshared_key := values.pop("preshared_key", ""):
            values["preshared_key_file"] = _key_file(host, "psk", preshared_key)
        text += toml(peer=values)
    return text


def _key_file(host: Host, kind: str, secret: str) -> str:
    path = host.run_dir / f"{next(_numbers)}.{kind}"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return str(path)


@dataclass
class Couple:
    """tunneld on the left and wireguard-go on the right, each the other's only peer."""

    hosts: Pair
    ours: Key
    theirs: Key
    daemon: Daemon
    wireguard: WireGuard

    async def peer(self) -> dict[str, Any]:
        """What our status says of the other end."""
        (peer,) = (await self.daemon.status())["peers"]
        return dict(peer)

    async def shown(self) -> Shown:
        """What `wg show` says of us."""
        return await self.wireguard.shown(self.ours.public)

    async def is_up(self) -> bool:
        """Whether we have had a handshake."""
        return (await self.peer())["latest_handshake"] is not None

    async def agree(self) -> tuple[int, int]:
        """Wait until both say the same of handshake, endpoints and bytes: those to us, and those from us."""
        try:
            await until(self._same)
        except TimeoutError:
            raise AssertionError(f"{await self.peer()} is not {await self.shown()}") from None
        peer = await self.peer()
        return peer["received_bytes"], peer["sent_bytes"]

    async def _same(self) -> bool:
        peer, shown = await self.peer(), await self.shown()
        if peer["latest_handshake"] is None or peer["link"] is None or not shown.handshake:
            return False
        ours = peer["link"].split()[1]
        begun = time.clock_gettime(time.CLOCK_REALTIME) - peer["latest_handshake"]
        return (
            abs(begun - shown.handshake) < 2
            and ours in (shown.endpoint, f"[::]:{PORT}")
            and (peer["received_bytes"], peer["sent_bytes"]) == (shown.sent, shown.received)
        )


async def until(holds: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    """Wait until it holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


def at(address: str, port: int = PORT) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def couple(
    hosts: Pair,
    *,
    outer: str = "v4",
    initiator: str = "both",
    preshared_key: str = "",
    keepalive: int = 0,
    mtu: int | None = None,
    command: Sequence[str] = RUN,
) -> Couple:
    """Both running; no handshake needs to be over.

    "tunneld", "wireguard-go" or "both" know the other's endpoint and have the `keepalive`.
    """
    ours, theirs = Key.generate(), Key.generate()
    left, right = (getattr(hosts, f"{side}_{outer}") for side in ("left", "right"))
    wireguard = await WireGuard.start(hosts.right, theirs, addresses=inside(1), mtu=mtu)
    settings = {} if initiator == "tunneld" else {"endpoint": at(left), "persistent_keepalive": keepalive}
    peer = {"public_key": theirs.public, "allowed_ips": host_prefixes(inside(1)), "preshared_key": preshared_key}
    if initiator != "wireguard-go":
        peer |= {"endpoint": at(right), "keepalive": keepalive}
        await wireguard.set_peer(ours.public, *host_prefixes(inside(0)), preshared_key=preshared_key, **settings)
    interface = {} if mtu is None else {"mtu": mtu}
    daemon = await tunneld(hosts.left, ours, peer, addresses=inside(0), command=command, **interface)
    if initiator == "wireguard-go":  # which calls at once if it is to keep alive, and whoever is called must be there
        await wireguard.set_peer(ours.public, *host_prefixes(inside(0)), preshared_key=preshared_key, **settings)
    return Couple(hosts, ours, theirs, daemon, wireguard)


def host_prefixes(addresses: Sequence[str]) -> list[str]:
    """The addresses without what is around them: as prefixes of one address each."""
    plain = (address.partition("/")[0] for address in addresses)
    return [f"{address}/{128 if ':' in address else 32}" for address in plain]


def udp_payload(packet: Packet) -> bytes:
    """Of a UDP datagram over IPv4 on an Ethernet link; b"" of anything else."""
    data = packet.data
    return data[42:] if data[12:15] == b"\x08\x00\x45" and data[23] == socket.IPPROTO_UDP else b""


def is_initiation(packet: Packet) -> bool:
    return udp_payload(packet)[:4] == bytes((1, 0, 0, 0))


def is_data(packet: Packet) -> bool:
    return udp_payload(packet)[:4] == bytes((4, 0, 0, 0))


def is_cookie(packet: Packet) -> bool:
    return udp_payload(packet)[:4] == bytes((3, 0, 0, 0))


def is_response(packet: Packet) -> bool:
    return udp_payload(packet)[:4] == bytes((2, 0, 0, 0))


def initiation_of_noise(public: bytes) -> bytes:
    """What anybody can make who knows a public key: MAC1 is right, the rest is not."""
    body = WIREGUARD.words[MessageType.INITIATION] + secrets.token_bytes(112)
    return body + b"".join(CookieJar(public).macs(body, 0.0))
