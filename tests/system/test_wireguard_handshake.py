"""Our half of a handshake against wireguard-go, in one host.

    our UDP socket 127.0.0.1 or ::1 ──────── port 51820, wireguard-go, device wg0

wireguard-go counts a handshake as complete only when it has opened a data message of the initiator.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import socket
import time
from dataclasses import dataclass

import pytest

from tests.conftest import missing
from tests.system.wireguard import initiation_of_noise, needs_wireguard_go, run_wireguard_go, until
from tunneld.lab import network
from tunneld.lab.host import Host
from tunneld.proto.handshake import (
    NO_PRESHARED_KEY,
    Local,
    Remote,
    TransportKeys,
    consume_initiation_untrusted,
    consume_response_untrusted,
    create_initiation,
    create_response,
)
from tunneld.proto.profile import WIREGUARD, MessageType
from tunneld.proto.tai64n import Stamper, seconds_between, stamp
from tunneld.proto.wire import DATA_HEADER, classify_untrusted

PORT = 51820
OURS = 40000
FLOOD = 3000  # wireguard-go is under load from 128 waiting initiations on, and stays so for a second
LOOPBACK = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}


@dataclass
class Partner:
    """wireguard-go with one peer: us."""

    host: Host
    local: Local
    remote: Remote
    sock: socket.socket
    stamper: Stamper

    async def wg(self, *words: str) -> str:
        done = await self.host.run(["wg", *words])
        assert done.code == 0, done.output
        return done.output

    async def meet(self, *words: str) -> None:
        """Make us its peer."""
        us = ["peer", text(self.local.static.public), "allowed-ips", "10.7.0.2/32", "persistent-keepalive", "1"]
        psk = ["preshared-key", str(self.host.run_dir / "psk")]  # zeros are none
        await self.wg("set", "wg0", *us, *psk, *words)

    async def receive(self, *kinds: MessageType, index: int | None = None) -> bytes:
        """The next message of one of these kinds to our session `index`; others are passed over."""
        async with asyncio.timeout(10):
            while True:
                message = await asyncio.get_running_loop().sock_recv(self.sock, 2048)
                kind = classify_untrusted(message, WIREGUARD)
                if kind in kinds and index in (None, receiver(kind, message)):
                    return message

    def initiation(self, sender: int, remote: Remote | None = None):
        return create_initiation(
            self.local,
            remote or self.remote,
            sender=sender,
            timestamp=self.stamper.next(wall()),
            now=0.0,
            random=secrets.token_bytes,
        )

    async def has_completed(self) -> bool:
        """Whether it counts a handshake with us as complete."""
        return (await self.wg("show", "wg0", "latest-handshakes")).split()[1] != "0"


def wall() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


async def succeeds(host: Host, *command: str) -> bool:
    return (await host.run(command)).code == 0


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture
def wireguard_go(namespaces, iproute2):
    needs_wireguard_go()


@pytest.fixture(params=["v4-psk", "v6-no-psk"])
async def partner(request, wireguard_go, lab):
    outer, psk = request.param.split("-", 1)
    if outer == "v6" and not network.HAS_IPV6:
        missing("the kernel has no IPv6")
    preshared_key = secrets.token_bytes(32) if psk == "psk" else NO_PRESHARED_KEY
    host = lab.host("alone")
    theirs = Local(WIREGUARD, private := secrets.token_bytes(32))
    local = Local(WIREGUARD, secrets.token_bytes(32))
    family, address = LOOPBACK[outer]
    sock = host.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with sock:
        sock.setblocking(False)
        sock.bind((address, OURS))
        sock.connect((address, PORT))
        partner = Partner(host, local, Remote(theirs.static.public, preshared_key), sock, Stamper())
        await run_wireguard_go(host, "wg0")
        for name, key in (("private", private), ("psk", preshared_key)):
            (host.run_dir / name).write_text(text(key) + "\n")
        await partner.wg("set", "wg0", "private-key", str(host.run_dir / "private"), "listen-port", str(PORT))
        assert await succeeds(host, "ip", "link", "set", "wg0", "up")
        yield partner


async def test_it_answers_our_initiation_and_both_hold_the_same_keys(partner):
    await partner.meet()
    sent = partner.initiation(sender=0xCAFE)
    partner.sock.send(sent.message)
    keys = consume_response_untrusted(
        partner.local, sent, await partner.receive(MessageType.RESPONSE, index=sent.sender)
    )
    partner.sock.send(keepalive(keys))
    await until(partner.has_completed)
    assert opened(keys, await partner.receive(MessageType.DATA, index=sent.sender)) == b""


async def test_it_takes_our_response_and_both_hold_the_same_keys(partner):
    address = partner.sock.getsockname()[0]
    await partner.meet("endpoint", f"[{address}]:{OURS}" if ":" in address else f"{address}:{OURS}")
    message = await partner.receive(MessageType.INITIATION)
    received = consume_initiation_untrusted(partner.local, message, secrets.token_bytes)
    assert received.static == partner.remote.public
    assert abs(seconds_between(stamp(wall()), received.timestamp)) < 30
    response, keys = create_response(partner.local, partner.remote, received, sender=0xBEEF, now=0.0)
    partner.sock.send(response)
    assert opened(keys, await partner.receive(MessageType.DATA, index=0xBEEF)) == b""


async def test_under_load_its_cookie_makes_it_answer_us(partner):
    await partner.meet()
    await cookie_under_flood(partner)
    without = Remote(partner.remote.public, partner.remote.preshared_key)
    partner.sock.send(partner.initiation(sender=0x500, remote=without).message)
    await partner.receive(MessageType.COOKIE, index=0x500)

    sent = partner.initiation(sender=0x501)
    assert sent.message[-16:] != bytes(16)
    partner.sock.send(sent.message)
    answer = await partner.receive(MessageType.RESPONSE, MessageType.COOKIE, index=0x501)
    consume_response_untrusted(partner.local, sent, answer)


async def cookie_under_flood(partner: Partner) -> None:
    """Flood it from another port until it answers an initiation of ours by a cookie, and keep that."""
    noise = [initiation_of_noise(partner.remote.public) for _ in range(FLOOD)]
    family, address = partner.sock.family, partner.sock.getpeername()[0]
    with partner.host.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as flood:
        for attempt in range(20):
            for message in noise:
                flood.sendto(message, (address, PORT))
            partner.sock.send(partner.initiation(sender=attempt).message)
            with contextlib.suppress(TimeoutError):  # it may have been lost in the flood
                async with asyncio.timeout(0.3):
                    reply = await partner.receive(MessageType.COOKIE, index=attempt)
                partner.remote.jar.consume_reply_untrusted(WIREGUARD, reply, 0.0)
                return
    raise AssertionError("wireguard-go never came under load")


def receiver(kind: MessageType, message: bytes) -> int | None:
    """Which of our sessions a message is for; none if it begins one."""
    starts = {MessageType.RESPONSE: 8, MessageType.COOKIE: 4, MessageType.DATA: 4}
    return int.from_bytes(message[starts[kind] : starts[kind] + 4], "little") if kind in starts else None


def keepalive(keys: TransportKeys) -> bytes:
    """The first data message, empty."""
    header = DATA_HEADER.pack(WIREGUARD.words[MessageType.DATA], keys.receiver, bytes(8))
    return header + WIREGUARD.aead(keys.send).encrypt(nonce(header), b"", None)


def opened(keys: TransportKeys, message: bytes) -> bytes:
    header = message[: DATA_HEADER.size]
    return WIREGUARD.aead(keys.receive).decrypt(nonce(header), message[DATA_HEADER.size :], None)


def nonce(header: bytes) -> bytes:
    return WIREGUARD.nonce_prefix + header[WIREGUARD.nonce_start :]
