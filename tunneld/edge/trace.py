"""simpletun's `-d`: a device that prints one line for every packet. Only the command `simpletun` uses it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tunneld.edge.device import Device
from tunneld.proto.framing import Buffer


class TracedDevice(Device):
    """A Device that tells on standard error what passes through it, as `simpletun -d` did."""

    def read_batch(self, limit: int) -> list[memoryview]:
        packets = super().read_batch(limit)
        first = self.packets_read - len(packets) + 1
        for number, packet in enumerate(packets, first):
            print(f"TAP2NET {number}: {len(packet)} bytes from {self.name}", file=sys.stderr)
        return packets

    def write_batch(self, packets: Sequence[Buffer]) -> None:
        # One at a time: only the count after each tells which of them the kernel took.
        for packet in packets:
            before = self.packets_written
            super().write_batch([packet])
            if self.packets_written > before:
                print(f"NET2TAP {self.packets_written}: {len(packet)} bytes to {self.name}", file=sys.stderr)
