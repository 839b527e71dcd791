"""What an interface is: one RTM_GETLINK (rtnetlink(7)) in the calling thread's network namespace.

Not from /sys/class/net, which shows the namespace of its mount and not the caller's.
"""

from __future__ import annotations

import errno
import struct
import sys
from dataclasses import dataclass

from tunneld.edge import rtnetlink

RTM_GETLINK = 18
IFLA_IFNAME = 3
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_TUN_OWNER = 1
IFLA_TUN_GROUP = 2
IFLA_TUN_TYPE = 3
IFLA_TUN_PERSIST = 6
IFLA_TUN_MULTI_QUEUE = 7
MODES = {1: "tun", 2: "tap"}  # IFLA_TUN_TYPE

_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change


@dataclass(frozen=True, slots=True)
class Interface:
    """`kind` is the kernel's word ("veth", "bridge", "tun" for TUN and TAP both; "" for hardware and lo).

    The rest speaks of TUN/TAP only: `mode` is "tun", "tap", or None for anything else; `owner` and `group` are a uid
    and a gid, None where not set.
    """

    kind: str
    mode: str | None = None
    owner: int | None = None
    group: int | None = None
    persistent: bool = False
    multi_queue: bool = False


def lookup(name: str) -> Interface | None:
    """The interface called `name`; None when there is none. Raises OSError."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + rtnetlink.attribute(IFLA_IFNAME, name.encode() + b"\0")
    with rtnetlink.open_socket() as sock:
        try:
            answer = rtnetlink.ask(sock, RTM_GETLINK, body)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            error.filename = name
            raise
    return _parse(answer[_IFINFO.size :])


def _parse(attributes: memoryview) -> Interface:
    info = dict(rtnetlink.walk(dict(rtnetlink.walk(attributes)).get(IFLA_LINKINFO, memoryview(b""))))
    kind = bytes(info.get(IFLA_INFO_KIND, b"")).rstrip(b"\0").decode()
    if kind != "tun":
        return Interface(kind)
    data = {key: int.from_bytes(value, sys.byteorder) for key, value in rtnetlink.walk(info[IFLA_INFO_DATA])}
    return Interface(
        kind,
        mode=MODES[data[IFLA_TUN_TYPE]],
        owner=data.get(IFLA_TUN_OWNER),
        group=data.get(IFLA_TUN_GROUP),
        persistent=bool(data[IFLA_TUN_PERSIST]),
        multi_queue=bool(data[IFLA_TUN_MULTI_QUEUE]),
    )
