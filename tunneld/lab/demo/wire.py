"""What somebody between two hosts sees: left says a sentence through a tunnel, and the cable outside is captured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tunneld.lab import decode, sockets
from tunneld.lab.capture import Capture, Packet
from tunneld.lab.child import readable
from tunneld.lab.demo.scene import expect
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Pair

MARKER = b"the password is swordfish"
TIMES = 20
HEADERS = 14 + 20 + 8  # Ethernet, IPv4 and UDP, in front of what the daemon sent
PATIENCE = 2.0  # seconds until right must have heard it
SHOWN = 64  # bytes of a message

_WIDE = 76  # columns that 16 bytes in a row take; a narrow terminal has 8
_PORT = 7007


@dataclass(frozen=True, slots=True)
class Heard:
    """Every frame on the cable meanwhile; and of them, the messages that carried the sentence."""

    frames: list[Packet]
    messages: list[bytes]

    def showing(self) -> int:
        """How many frames show the sentence."""
        return sum(MARKER in frame.data for frame in self.frames)


async def say(hosts: Pair, address: str, port: int) -> Heard:
    """Let left say the sentence to `address`, behind right, TIMES times; its tunnel sends to UDP `port`.

    Raises CheckError, TimeoutError unless right hears it each time.
    """

    def messages() -> list[bytes]:
        return [frame.data[HEADERS:] for frame in capture.packets if frame.outgoing and _port(frame.data) == port]

    with (
        Capture(hosts.left, "eth0") as capture,
        sockets.udp(hosts.right, bind=(address, _PORT)) as ear,
        sockets.udp(hosts.left, connect=(address, _PORT)) as mouth,
    ):
        for _ in range(TIMES):
            mouth.send(MARKER)
            async with asyncio.timeout(PATIENCE):
                await readable(ear.fileno())
            heard = ear.recv(2048)
            expect(heard == MARKER, f"right heard {heard!r}")
        await capture.wait_for(lambda _: len(messages()) >= TIMES)
        return Heard(list(capture.packets), messages())


def show(screen: Screen, message: bytes, ends: str, style: str) -> None:
    """Print the first bytes of a message; `ends` says between whom."""
    screen.detail(f"{ends} UDP, {len(message)} bytes:", style)
    width = 16 if screen.columns >= _WIDE else 8
    for line in decode.dump(message[:SHOWN], width):
        screen.detail(line)


def _port(frame: bytes) -> int:
    """The UDP port that a frame goes to; 0 if it is no IPv4 datagram."""
    is_udp = frame[12:14] == b"\x08\x00" and frame[23] == 17
    return int.from_bytes(frame[36:38], "big") if is_udp else 0
