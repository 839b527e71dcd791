"""What the network says of datagrams that we sent: which errors break a UDP socket, and whom ICMP is about.

With IP_RECVERR an ICMP message becomes the error of whatever call comes next, be it a send to somebody else. Only
the socket's error queue names the destination that is meant, and it must be emptied, or the socket stays readable.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from tunneld.edge import address as addresses
from tunneld.proto.source import Address

# linux/in.h, linux/in6.h: report ICMP errors on an unconnected socket too. The socket module does not name them.
IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25

# Errors that say that this datagram could not go, not that the socket is broken; first those that say nothing of
# the peer either. All that Linux makes of any ICMP message is among them: a stranger can send us each of those.
TOO_MUCH: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM})
REFUSED: Final = TOO_MUCH | {
    errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED,
    errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV, errno.ENONET, errno.ENOPROTOOPT,
    errno.EOPNOTSUPP, errno.EPROTO,
}  # fmt: skip

# One call reads no more than this; what is left becomes the error of the next call to the socket.
MOST_READ: Final = 64

_CONTROL_BYTES: Final = 256
# struct sock_extended_err of linux/errqueue.h: errno, origin; then type, code, info and data, which we do not need.
_EXTENDED_ERROR: Final = struct.Struct("=IB11x")
_FROM_ICMP: Final = (2, 3)
_QUEUED_AS: Final = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))


def enable(sock: socket.socket) -> None:
    """Let ICMP errors be reported to the UDP socket `sock`. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def read(sock: socket.socket) -> list[tuple[Address, int]]:
    """Empty the error queue: the destination and the errno of each ICMP message, oldest first, at most 64.

    What the kernel itself refused is not among them, since the call that it refused raised the same error.
    """
    errors: list[tuple[Address, int]] = []
    for _ in range(MOST_READ):
        try:
            _, control, _, destination = sock.recvmsg(0, _CONTROL_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            break
        for level, kind, data in control:
            if (level, kind) in _QUEUED_AS:
                number, origin = _EXTENDED_ERROR.unpack_from(data)
                if origin in _FROM_ICMP:
                    errors.append((addresses.normalise(destination), number))
    return errors
