"""Tell systemd how we are: sd_notify(3) in ten lines."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*states: str) -> None:
    """Send assignments such as "READY=1" or "STATUS=up" in one datagram.

    Never raises and never blocks: without $NOTIFY_SOCKET, or with nobody behind it, nothing happens.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract socket: its name begins with a zero byte
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(states).encode(errors="replace"), socket.MSG_DONTWAIT, address)
