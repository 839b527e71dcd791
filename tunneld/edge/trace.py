"""simpletun's `-d`: a device that prints one line for every packet. Only the command `simpletun` uses it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunneld.edge.device import Device


class TracedDevice(Device):
    """A Device that tells on standard error what passes through it, as `simpletun -d` did."""

    def read_batch(self, limit: int) -> list[memoryview]:
        packets = super().read_batch(limit)
        first = self.packets_read - len(packets) + 1
        for number, packet in enumerate(packets, first):
            print(f"TAP2NET {number}: {len(packet)} bytes from {self.name}", file=sys.stderr)
        return packets

    def write_batch(self, packets: Sequence[bytes | memoryview]) -> None:
        first = self.packets_written + 1
        super().write_batch(packets)
        for number, packet in enumerate(packets, first):
            print(f"NET2TAP {number}: {len(packet)} bytes to {self.name}", file=sys.stderr)
