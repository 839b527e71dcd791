"""What somebody on the wire sees of a sealed tunnel: not the packets, not who talks inside, and no key.

left t0 ══ marked datagrams, v4 and v6 ══ t0 right
left eth0 ── everything is searched here ── eth0 right

The search finds a pattern as it is, and under any mask that repeats every 1, 2, 4 or 8 bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket

import pytest

from tests.system.conftest import INSIDE, Setup, start
from tests.system.sealed import PSK, SIDES, Sealed, key_of
from tunneld.keys import encode
from tunneld.lab import network, sockets
from tunneld.lab.capture import Capture
from tunneld.lab.child import readable

on_uvloop = pytest.mark.asyncio(loop_factories=["uvloop"])

SHORT = 3_000  # packets
LONG = 100_000
COUNTS = [SHORT, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(240)])]
PORT = 7100
SIZE = 120  # bytes of a datagram, most of them the marker again and again
WINDOW = 32  # datagrams under way at once, so that none is lost
MARKER = hashlib.blake2s(b"marker", digest_size=16).digest()
PERIODS = (1, 2, 4, 8)
LEAST = 7  # bytes of a pattern that no accident brings about, among some 10^8
PROTOCOL = 14 + 9  # Ethernet, IPv4
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP
DATA = {b"\x84", b"\x04"}  # the first byte of a data message
CIPHERTEXT = HEADERS + 16
BLOCK = 16

PLAIN = [pytest.param(Setup(transport), id=transport) for transport in ("udp", "tcp")]
SEALED = [
    pytest.param(Sealed(), id="udp-tun"),
    pytest.param(Sealed("udp", "tap", cipher="aes-256-gcm"), id="udp-tap-aes"),
    pytest.param(Sealed("tcp", "tun", cipher="aes-256-gcm"), id="tcp-tun-aes"),
    pytest.param(Sealed("tcp", "tap"), id="tcp-tap"),
    pytest.param(Sealed(protocol="wireguard"), id="wireguard"),
]
IPV4 = [bytes(map(int, address.split("."))) for address in INSIDE["v4"]]
IPV6 = [bytes.fromhex("fd09" + "00" * 13 + f"0{end}") for end in (1, 2)]
TRAFFIC = {"marker": MARKER, "addresses": IPV4[0] + IPV4[1], "source": IPV6[0], "destination": IPV6[1]}
KEYS = {"psk": PSK} | {
    f"{kind} key of {side}": bytes(key)
    for side in SIDES
    for kind, key in (("private", key_of(side).raw), ("public", key_of(side).public_key().raw))
}


class Search:
    """Looks for patterns in what passes, and puts their names in `found`.

    `repeated` counts the blocks of what may be the ciphertext of a datagram that were there before, anywhere.
    """

    def __init__(self) -> None:
        texts = {f"{name} in base64": encode(key) for name, key in KEYS.items()}
        self._patterns = [
            (name, period, difference(pattern, period))
            for name, pattern in (TRAFFIC | KEYS | texts).items()
            for period in (0, *PERIODS)
            if len(pattern) - period >= LEAST
        ]
        self._blocks: set[bytes] = set()
        self.found: set[str] = set()
        self.repeated = 0
        self.octets = 0

    def look(self, packet: bytes) -> None:
        self.octets += len(packet)
        seen = {period: difference(packet, period) for period in (0, *PERIODS)}
        self.found.update(name for name, period, pattern in self._patterns if pattern in seen[period])
        if packet[PROTOCOL] != socket.IPPROTO_UDP or packet[HEADERS : HEADERS + 1] not in DATA:
            return
        for at in range(CIPHERTEXT, len(packet) - BLOCK + 1, BLOCK):
            block = packet[at : at + BLOCK]
            self.repeated += block in self._blocks
            self._blocks.add(block)

    def take(self, capture: Capture) -> None:
        """Look at all that was captured, and let it go."""
        while capture.packets:
            self.look(capture.packets.popleft().data)


def difference(data: bytes, period: int) -> bytes:
    """`data` XOR itself `period` bytes on, which no mask of that period changes; `data` for 0."""
    if period == 0:
        return data
    number = int.from_bytes(data, "big")
    return (number ^ number >> 8 * period).to_bytes(len(data), "big")[period:]


@pytest.mark.parametrize("mask", [b"\x00", b"\x5a", b"\x12\x34", b"\xde\xad\xbe\xef", bytes(range(8))])
def test_the_search_sees_through_a_mask(mask):
    search = Search()
    text = b"before" + MARKER + b"between" + TRAFFIC["addresses"] + b"after"
    search.look(bytes(map(int.__xor__, text, itertools.cycle(mask))))
    assert "marker" in search.found
    # What is short is only found under short masks.
    assert "addresses" in search.found or len(mask) > 1


@on_uvloop
@pytest.mark.parametrize("setup", PLAIN)
async def test_the_search_finds_what_plain_shows(hosts, setup):
    search = await searched(hosts, setup, SHORT // 10)
    assert search.found == TRAFFIC.keys() if network.HAS_IPV6 else {"marker", "addresses"}


@on_uvloop
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("setup", SEALED)
async def test_nothing_of_it_is_on_the_wire(hosts, setup, count):
    search = await searched(hosts, setup, count)
    assert search.found == set()
    assert search.repeated == 0


async def searched(hosts, setup, count) -> Search:
    """What was seen of a tunnel from its first handshake on, while `count` marked datagrams arrived."""
    search = Search()
    with Capture(hosts.right, "eth0") as wire:
        await start(hosts, setup)
        for family in INSIDE if network.HAS_IPV6 else ("v4",):
            await send_marked(hosts, family, count // 2, lambda: search.take(wire))
        search.take(wire)
    assert search.octets >= count // 2 * SIZE, "the capture has missed something"
    return search


async def send_marked(hosts, family, count, look):
    """From left to right, all of which must arrive; `look` is called again and again."""
    datagram = (MARKER * (SIZE // len(MARKER) + 1))[:SIZE]
    source, target = ((address, PORT) for address in INSIDE[family])
    with (
        sockets.udp(hosts.right, bind=target) as receiving,
        sockets.udp(hosts.left, bind=source, connect=target) as sending,
    ):
        arrived = 0
        for _ in range(0, count, WINDOW):
            for _ in range(WINDOW):
                sending.send(datagram)
            async with asyncio.timeout(5.0):
                wanted = arrived + WINDOW
                while arrived < wanted:
                    await readable(receiving.fileno())
                    assert receiving.recv(2048) == datagram
                    arrived += 1
            look()
