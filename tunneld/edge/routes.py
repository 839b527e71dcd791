"""Notice that routes, rules, addresses or interfaces changed, and ask which way a datagram would take now.

WireGuard asks its kernel so before each datagram; here it is asked once for each path after something changed.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Final

from tunneld.edge import rtnetlink

RTM_GETROUTE: Final = 26
RTA_DST: Final = 1
RTA_SRC: Final = 2
RTA_OIF: Final = 4
RTA_MARK: Final = 16

# RTMGRP_* of linux/rtnetlink.h: LINK, as the routes of an interface that is set down vanish without a word;
# IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE; IPV6_IFADDR, IPV6_ROUTE, and what would be IPV6_RULE (RTNLGRP 19).
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

_ROUTE: Final = struct.Struct("=8BI")  # rtmsg: family, length of destination and of source; the rest stays 0
_INDEX: Final = struct.Struct("=I")
_MOST_READ: Final = 64


class Routes:
    """The routing of the network namespace of the thread that makes this."""

    def __init__(self) -> None:
        """Raises OSError (EMFILE)."""
        self._events = rtnetlink.open_socket(_GROUPS)
        try:
            self._events.setblocking(False)
            self._questions = rtnetlink.open_socket()
        except OSError:
            self._events.close()
            raise

    def fileno(self) -> int:
        """Readable when something changed."""
        return self._events.fileno()

    def changed(self) -> bool:
        """Whether anything changed since the last call."""
        something = False
        for _ in range(_MOST_READ):
            try:
                self._events.recv(1)
            except BlockingIOError:
                break
            except OSError as error:
                # More changed than the socket's buffer holds.
                if error.errno != errno.ENOBUFS:
                    raise
            something = True
        return something

    def interface(self, destination: bytes, source: bytes, *, by: int = 0, mark: int = 0) -> int | None:
        """The index of the interface by which a datagram leaves; None if it does not, or `source` is not ours.

        Addresses are 4 or 16 bytes, of one family. `by` is the interface that its sender demands, and `mark` the
        firewall mark of its socket; 0 is none.
        """
        family, bits = (socket.AF_INET, 32) if len(destination) == 4 else (socket.AF_INET6, 128)
        question = [
            _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0),
            rtnetlink.attribute(RTA_DST, destination),
            rtnetlink.attribute(RTA_SRC, source),
            rtnetlink.attribute(RTA_MARK, _INDEX.pack(mark)),
        ]
        if by:
            question.append(rtnetlink.attribute(RTA_OIF, _INDEX.pack(by)))
        try:
            answer = rtnetlink.ask(self._questions, RTM_GETROUTE, b"".join(question))
        except OSError:
            return None
        found = dict(rtnetlink.walk(answer[_ROUTE.size :])).get(RTA_OIF)
        return None if found is None else int.from_bytes(found, sys.byteorder)

    def close(self) -> None:
        self._events.close()
        self._questions.close()
