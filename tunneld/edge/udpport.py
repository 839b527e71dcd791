"""The UDP port of many peers: one socket, and a path for every way by which datagrams come and go.

Theory of operation

- A path is a remote address and the address of ours that it speaks to. What goes back on a path leaves from there: on
  a wildcard socket the kernel tells of each datagram where it was sent to (packet information, ip(7), ipv6(7)), and
  takes the same as the source of an answer. A socket that is bound to one address needs none of it. The interface
  is named for link-local addresses only; else the routing table is free to choose it.
- An address of ours may go: a send from it is refused then, and made again with the source left to the routing table.
  A better route may come: after any change of routes or addresses each path asks, before it sends again, whether its
  datagrams would still leave by the interface by which the peer's came in. If not, its source is left to the routing
  table as well; so do WireGuard's implementations. `sticky` is false meanwhile.
- With IP_RECVERR an ICMP message about one peer is the error of the next call, whomever that is for. The error queue
  tells whose it is, and what was refused is sent again: an unreachable peer costs no other a datagram.
- What a turn brings is sorted by path: a flood of others must not cut a peer's datagrams into small batches.
- Paths are remembered by what the kernel says of a datagram, so that the same objects come back without being made
  anew. Strangers fill that memory too; it is emptied when full.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from ipaddress import ip_address
from typing import Final

from tunneld.edge import address as addresses
from tunneld.edge import errqueue, udp
from tunneld.edge.routes import Routes
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.source import Address

MOST_PATHS: Final = 1024
MOST_TROUBLES: Final = 64
# How often one datagram is sent again while the errors of others come in its way.
MOST_REPEATS: Final = 4

# linux/in.h: struct in_pktinfo is the interface's index, our address, and the destination in the header, which is
# another one for a broadcast. The socket module does not name it.
IP_PKTINFO: Final = 8
_INFO_V4: Final = struct.Struct("=I4s4s")
# linux/ipv6.h: struct in6_pktinfo is our address, mapped if it is IPv4, and the interface's index.
_INFO_V6: Final = struct.Struct("=16sI")
# What makes a socket tell it. On an IPv6 socket it is told of IPv4 datagrams too, with mapped addresses.
_INFORM: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}
_CONTROL_BYTES: Final = socket.CMSG_SPACE(_INFO_V6.size)
_LINK_LOCAL: Final = (b"\xfe\x80", b"\xa9\xfe", bytes(10) + b"\xff\xff\xa9\xfe")
_PORT: Final = struct.Struct(">H")

# What a send says when its source is not ours any more, depending on the family and on the kernel.
_SOURCE_GONE: Final = frozenset({
    errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETUNREACH, errno.EHOSTUNREACH,
})  # fmt: skip

Control = tuple[tuple[int, int, bytes], ...]


class UdpPath:
    """Where datagrams come from and by which of our addresses: the link to one peer, while it stays there.

    Two paths are equal if `remote` and `local` are. `sticky` tells whether `local` is asked for as the source; only
    the port changes it, and `as_of`, the change of routes that it has seen.
    """

    blocked = False

    def __init__(self, port: UdpPort, target: Address, control: Control, interface: int = 0) -> None:
        """`target` is the remote as the socket names it; `control` makes a source of `local`, () leaves it open.

        `interface` is the index of that by which datagrams came in.
        """
        self.target = target
        self.control = control
        self.interface = interface
        self.sticky = bool(control)
        self.as_of = port.changes
        self.port = port

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UdpPath) and self.target == other.target and self.control == other.control

    def __hash__(self) -> int:
        return hash((self.target, self.control))

    def __str__(self) -> str:
        return f"udp {addresses.text(self.local or self.port.local)} → {addresses.text(self.remote)}"

    def __repr__(self) -> str:
        return f"<{self}>"

    @cached_property
    def remote(self) -> Address:
        """The peer's address; IPv4 is written as IPv4 on any socket."""
        return addresses.normalise(self.target)

    @cached_property
    def local(self) -> Address | None:
        """Our address; None where the routing table is to choose it."""
        if not self.control:
            return None if self.port.wildcard else self.port.local
        level, _, info = self.control[0]
        port = self.port.local[1]
        if level == socket.IPPROTO_IP:
            return (socket.inet_ntoa(_INFO_V4.unpack(info)[1]), port)
        ours, interface = _INFO_V6.unpack(info)
        return addresses.normalise((socket.inet_ntop(socket.AF_INET6, ours), port, 0, interface))

    @cached_property
    def ip(self) -> bytes:
        """The address of `remote`, 4 or 16 bytes."""
        return socket.inet_pton(addresses.family_of(self.remote), self.remote[0])

    @cached_property
    def source(self) -> bytes:
        """`ip` and the port, big-endian: what a cookie is made for."""
        return self.ip + _PORT.pack(self.remote[1])

    def send_batch(self, messages: Sequence[Buffer]) -> int:
        """Takes every message; what the network refuses at once is counted in the port's `drops`. Raises LinkDown."""
        return self.port.send(self, messages)


class UdpPort:
    """Datagrams from everybody, each batch with its path; who is a peer is not known here."""

    blocked = False
    more = False

    def __init__(self, sock: socket.socket) -> None:
        """Takes over `sock`, a bound and non-blocking one, in whose network namespace this must be called.

        Raises OSError (EMFILE), and has closed `sock` then.
        """
        self._sock = sock
        # recvmsg_into wants a list of buffers; these are of one each.
        self._buffers = [[memoryview(bytearray(udp.DATAGRAM_BUFFER_BYTES))] for _ in range(udp.BATCH)]
        self._paths: dict[tuple[Address, bytes], UdpPath] = {}
        self._troubles: dict[Address, str] = {}
        self.drops: Counter[Reason] = Counter()
        self.local = addresses.normalise(sock.getsockname())
        self.wildcard = ip_address(self.local[0]).is_unspecified
        self._control_bytes = _CONTROL_BYTES if self.wildcard else 0
        self.changes = 0
        with ExitStack() as stack:
            stack.callback(sock.close)
            self._watch = stack.enter_context(closing(udp.watch(sock)))
            self._routes = None
            if self.wildcard:
                sock.setsockopt(*_INFORM[sock.family], 1)
                self._routes = stack.enter_context(closing(Routes()))
                self._watch.register(self._routes, select.EPOLLIN)
            self._resources = stack.pop_all()

    def fileno(self) -> int:
        return self._watch.fileno()

    def recv_batches(self, now: float) -> list[tuple[UdpPath, list[memoryview]]]:
        """Up to 32 datagrams or some 64 KiB, those on the same path together and in their order.

        The views are valid until the next call. Raises LinkDown when the socket is broken.
        """
        batches: dict[tuple[Address, bytes], list[memoryview]] = {}
        datagrams: list[memoryview] = []
        origin: tuple[Address, bytes] | None = None
        octets = 0
        for buffer in self._buffers:
            try:
                count, control, _, sender = self._sock.recvmsg_into(buffer, self._control_bytes)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._outlive(error)
                continue
            came = (sender, control[0][2] if control else b"")
            if came != origin:
                origin = came
                datagrams = batches.setdefault(came, [])
            datagrams.append(buffer[0][:count])
            octets += count
            if octets >= udp.TURN_BYTES:
                break
        # Only then, as this costs as much as a datagram; what woke us for nothing may have been this.
        if not batches and self._routes is not None and self._routes.changed():
            self.changes += 1
        return [(self._path_of(came), together) for came, together in batches.items()]

    def path(self, remote: Address) -> UdpPath:
        """The way to `remote`, from the address that the routing table chooses.

        Raises LinkDown when the socket cannot reach that family.
        """
        target = addresses.for_family(remote, self._sock.family)
        if target != remote and not self.wildcard:
            where = addresses.text(remote)
            raise LinkDown(f'{where} is IPv4, but we listen on one IPv6 address only; write listen = "[::]:PORT"')
        return UdpPath(self, target, ())

    def send(self, path: UdpPath, messages: Sequence[Buffer]) -> int:
        """See `UdpPath.send_batch`."""
        if path.as_of != self.changes:
            self._reconsider(path)
        sendmsg, target = self._sock.sendmsg, path.target
        control = _control(path)
        for message in messages:
            try:
                sendmsg((message,), control, 0, target)
            except (BlockingIOError, InterruptedError):
                self.drops[Reason.QUEUE_FULL] += 1
            except OSError as error:
                self._send_again(path, message, error)
                control = _control(path)
        return len(messages)

    def poll_trouble(self) -> tuple[Address, str] | None:
        """What the network last said of a destination ("Connection refused"), the oldest first; None if nothing.

        One entry for each address, and 64 in all: what comes beyond is not told. ICMP is easily forged.
        """
        for address in self._troubles:
            return address, self._troubles.pop(address)
        return None

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._resources.close()

    def _path_of(self, origin: tuple[Address, bytes]) -> UdpPath:
        path = self._paths.get(origin)
        if path is None:
            if len(self._paths) >= MOST_PATHS:
                self._paths.clear()
            path = self._paths[origin] = self._make_path(*origin)
        return path

    def _make_path(self, sender: Address, info: bytes) -> UdpPath:
        """From the packet information of what came, b"" on a socket without, that of what is to go back."""
        if not info:
            return UdpPath(self, sender, ())
        if self._sock.family == socket.AF_INET:
            interface, ours, _ = _INFO_V4.unpack(info)
            back = _INFO_V4.pack(_scope(ours, interface), ours, bytes(4))
            return UdpPath(self, sender, ((socket.IPPROTO_IP, IP_PKTINFO, back),), interface)
        ours, interface = _INFO_V6.unpack(info)
        back = _INFO_V6.pack(ours, _scope(ours, interface))
        return UdpPath(self, sender, ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, back),), interface)

    def _reconsider(self, path: UdpPath) -> None:
        """Routes or addresses changed since the path last asked: is its source still the right one?"""
        path.as_of = self.changes
        if path.local is None or self._routes is None:
            return
        ours = socket.inet_pton(addresses.family_of(path.local), path.local[0])
        mark = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
        by = _scope(ours, path.interface)
        path.sticky = self._routes.interface(path.ip, ours, by=by, mark=mark) == path.interface

    def _send_again(self, path: UdpPath, message: Buffer, error: OSError) -> None:
        """Send `message` on, which was refused by `error`, if that was another's; else count and tell it."""
        for repeat in range(MOST_REPEATS):
            anothers = self._outlive(error)
            # Not at the first failure: a full receive buffer has no room to say whose the error was.
            if repeat and not anothers:
                break
            try:
                self._sock.sendmsg((message,), _control(path), 0, path.target)
            except (BlockingIOError, InterruptedError):
                self.drops[Reason.QUEUE_FULL] += 1
                return
            except OSError as again:
                error = again
            else:
                return
        if error.errno in _SOURCE_GONE and self._sent_unsourced(path, message):
            return
        self.drops[Reason.SEND_REFUSED] += 1
        if not anothers and error.errno not in errqueue.TOO_MUCH:
            self._tell(path.remote, addresses.said(error))

    def _sent_unsourced(self, path: UdpPath, message: Buffer) -> bool:
        if not path.sticky:
            return False
        try:
            self._sock.sendmsg((message,), (), 0, path.target)
        except OSError:
            # It is not the source then that is missing.
            return False
        path.sticky = False
        return True

    def _outlive(self, error: OSError) -> bool:
        """Take note of what ICMP said, and return whether it said anything. Raises LinkDown if `error` is the end."""
        if error.errno not in errqueue.REFUSED:
            raise LinkDown(addresses.said(error)) from None
        reports = errqueue.read(self._sock)
        for address, number in reports:
            if number not in errqueue.TOO_MUCH:
                self._tell(address, os.strerror(number))
        return bool(reports)

    def _tell(self, address: Address, what: str) -> None:
        if address in self._troubles or len(self._troubles) < MOST_TROUBLES:
            self._troubles[address] = what


def _scope(ours: bytes, interface: int) -> int:
    """The interface that must be named with this address of ours; 0 where the routing table chooses it."""
    return interface if ours.startswith(_LINK_LOCAL) else 0


def _control(path: UdpPath) -> Control:
    return path.control if path.sticky else ()
