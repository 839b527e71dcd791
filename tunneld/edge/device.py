"""The Device: a TUN or TAP descriptor, read and written in batches of plain packets."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence

from tunneld.edge import netns, tuntap
from tunneld.proto.errors import DeviceError, Reason
from tunneld.proto.framing import Buffer

PACKET_MAX = 65_535 + 4  # the largest MTU of the driver with its Ethernet header, and a VLAN tag
SHORTEST = {"tun": 20, "tap": 14}  # an IPv4 header, an Ethernet header: less is no packet

# Why the kernel refuses a packet. What is not in here means that the device is lost.
REFUSALS = {
    errno.EINVAL: Reason.DEVICE_REFUSED,
    errno.EMSGSIZE: Reason.DEVICE_REFUSED,
    errno.EIO: Reason.DEVICE_DOWN,
    errno.EAGAIN: Reason.DEVICE_FULL,
    errno.ENOBUFS: Reason.DEVICE_FULL,
    errno.ENOMEM: Reason.DEVICE_FULL,
}


class DeviceLostError(DeviceError):
    """The device was deleted or broke under us. Take the descriptor out of the loop, close, open again."""


class Device:
    """One attached TUN or TAP device.

    `fd` is -1 once closed. Take it out of the loop *before* `close`: uvloop aborts the process otherwise.
    `persistent` tells whether it stays when we close it. The four counters only grow; `drops` counts by reason what
    `write_batch` could not give to the kernel.
    """

    def __init__(self, fd: int, name: str, mode: str, *, persistent: bool) -> None:
        """Owns the non-blocking `fd` from now on; `mode` is "tun" or "tap"."""
        self.fd = fd
        self.name = name
        self.mode = mode
        self.persistent = persistent
        self.packets_read = 0
        self.bytes_read = 0
        self.packets_written = 0
        self.bytes_written = 0
        self.drops: Counter[Reason] = Counter()
        self._shortest = SHORTEST[mode]
        self._buffers: list[list[memoryview]] = []

    @classmethod
    def open(cls, name: str, mode: str, *, namespace: int | None = None) -> Device:
        """Attach to the device `name`, or make a transient one, in the namespace of the descriptor `namespace`.

        Raises DeviceError.
        """
        try:
            fd = netns.call_in(namespace, lambda: tuntap.attach(name, mode))
        except OSError as error:
            raise DeviceError(
                f"{name}: cannot enter its network namespace: {error.strerror}; this needs CAP_SYS_ADMIN"
            ) from error
        return cls(fd, name, mode, persistent=tuntap.is_persistent(fd))

    def fileno(self) -> int:
        """The descriptor to watch: readable when packets wait, and when the device is deleted."""
        return self.fd

    def set_persist(self, stays: bool) -> None:
        """Decide whether the device stays when we close it. Raises DeviceLostError."""
        try:
            tuntap.set_persistent(self.fd, stays)
        except OSError as error:
            raise self._lost(error) from error
        self.persistent = stays

    def close(self) -> None:
        """Detach; a device that is not persistent is gone then. May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def read_batch(self, limit: int) -> list[memoryview]:
        """Up to `limit` packets, none when nothing waits. Never blocks.

        The packets lie in buffers of the device and hold until the next `read_batch`. Raises DeviceLostError.
        """
        while len(self._buffers) < limit:
            self._buffers.append([memoryview(bytearray(PACKET_MAX))])
        packets: list[memoryview] = []
        octets = 0
        fd, readv = self.fd, os.readv
        try:
            for buffer in self._buffers[:limit]:
                size = readv(fd, buffer)
                packets.append(buffer[0][:size])
                octets += size
        except BlockingIOError:
            pass
        except OSError as error:
            # Even with packets in hand: uvloop wakes once for a deleted device and never again.
            raise self._lost(error) from error
        self.packets_read += len(packets)
        self.bytes_read += octets
        return packets

    def write_batch(self, packets: Sequence[Buffer]) -> None:
        """Give each packet to the kernel; one that it does not take is counted in `drops`. Never blocks.

        Raises DeviceLostError; the rest of the batch is then lost too.
        """
        written = octets = 0
        fd, write, shortest = self.fd, os.write, self._shortest
        for packet in packets:
            if len(packet) < shortest:
                # The kernel takes a single byte for IP if it begins with 4 or 6, and drops it where nobody counts.
                self.drops[Reason.DEVICE_REFUSED] += 1
                continue
            try:
                octets += write(fd, packet)
                written += 1
            except OSError as error:
                reason = REFUSALS.get(error.errno or 0)
                if reason is None:
                    raise self._lost(error) from error
                self.drops[reason] += 1
        self.packets_written += written
        self.bytes_written += octets

    def _lost(self, error: OSError) -> OSError | DeviceLostError:
        if error.errno == errno.EBADF:  # used after close: our bug, not the device's
            return error
        cause = "was deleted" if error.errno == errno.EBADFD else f"failed: {error.strerror}"
        return DeviceLostError(f"{self.name}: the device {cause}")
