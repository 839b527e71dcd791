"""What an interface of a host sees, by AF_PACKET: needs no tcpdump on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tunneld.lab import decode
from tunneld.lab.host import Host

ETH_P_ALL = 3
KEPT = 10_000  # packets; the oldest go first
SNAP = 65535  # bytes of a packet
BURST = 64
_ETHERNET_LINKS = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK; a TUN device carries bare IP packets
_PCAP_ETHERNET = 1
_PCAP_RAW = 101


@dataclass(frozen=True, slots=True)
class Packet:
    """`time` is wall-clock seconds; `data` starts with the Ethernet header, if the interface has one."""

    time: float
    data: bytes
    ethernet: bool
    outgoing: bool

    def __str__(self) -> str:
        return decode.ethernet(self.data) if self.ethernet else decode.ip(self.data)


class Capture:
    """Packets of one interface, from entering the context until leaving it. Raises OSError: no such interface."""

    def __init__(self, host: Host, link: str) -> None:
        self.packets: deque[Packet] = deque(maxlen=KEPT)
        self._arrived = asyncio.Event()
        self._socket = host.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0))
        try:
            self._socket.bind((link, ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        self.ethernet = self._socket.getsockname()[3] in _ETHERNET_LINKS

    def __enter__(self) -> Capture:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._read()
        self._socket.close()

    async def wait_for(self, wanted: Callable[[Packet], bool], timeout: float = 5.0) -> Packet:
        """The oldest kept packet that is `wanted`, once there is one. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                self._arrived.clear()
                for packet in self.packets:
                    if wanted(packet):
                        return packet
                await self._arrived.wait()

    def write_pcap(self, path: Path) -> None:
        """All kept packets, as tcpdump and Wireshark read them. Raises OSError."""
        kind = _PCAP_ETHERNET if self.ethernet else _PCAP_RAW
        with path.open("wb") as file:
            file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, kind))
            for packet in self.packets:
                seconds, fraction = divmod(packet.time, 1)
                length = len(packet.data)
                file.write(struct.pack("=IIII", int(seconds), int(fraction * 1e6), length, length) + packet.data)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(BURST):
                data, address = self._socket.recvfrom(SNAP)
                now = time.clock_gettime(time.CLOCK_REALTIME)
                outgoing = address[2] == socket.PACKET_OUTGOING
                self.packets.append(Packet(now, data, self.ethernet, outgoing))
        self._arrived.set()
