"""The UDP link: one socket, one peer at a time, up to 32 datagrams or some 64 KiB a turn."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Sequence

from tunneld.config import Endpoint
from tunneld.edge import address as addresses
from tunneld.edge import errqueue
from tunneld.edge.tcp import bind
from tunneld.proto.errors import LinkDown, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.source import Source

# Datagrams read in one turn of the loop: enough to amortise the wake-up, few enough to let others run.
BATCH = 32
# What ends a turn early. A full batch of ordinary datagrams is less; one of the longest, filled with lengths of 0, is
# a million packets, which take 100 MB and most of a second.
TURN_BYTES = 64 * 1024
DATAGRAM_BUFFER_BYTES = 65536
# With CAP_NET_ADMIN outside any user namespace this is what we get; else net.core.{r,w}mem_max bounds it.
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
# asm-generic/socket.h; the socket module does not name them.
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33


class UdpLink:
    """Datagrams to and from the peer that `source` names; those of others are counted as `stranger`.

    `trouble` is what the network last said about the way to the peer ("Connection refused"); "" when all is well.
    `heard` is when the peer's last datagrams were read, in the caller's `now`; `unanswered` tells whether anything
    was sent since.
    """

    def __init__(self, sock: socket.socket, source: Source) -> None:
        """Takes over `sock`, a bound and non-blocking one. Raises OSError (EMFILE), and has closed it then."""
        self._sock = sock
        self._source = source
        self._buffers = [memoryview(bytearray(DATAGRAM_BUFFER_BYTES)) for _ in range(BATCH)]
        self.drops: Counter[Reason] = Counter()
        self.trouble = ""
        self.heard: float | None = None
        self.unanswered = False
        self.local = addresses.normalise(sock.getsockname())
        try:
            self._watch = watch(sock)
        except OSError:
            sock.close()
            raise

    def __str__(self) -> str:
        remote = self._source.address
        return f"udp {addresses.text(self.local)} → {addresses.text(remote) if remote else 'anybody'}"

    @property
    def blocked(self) -> bool:
        """Never: UDP drops what the socket does not take."""
        return False

    more = False

    def fileno(self) -> int:
        return self._watch.fileno()

    @property
    def port(self) -> UdpLink:
        return self

    def recv_batches(self, now: float) -> Sequence[tuple[UdpLink, Sequence[memoryview]]]:
        messages = self.recv_batch(now)
        return ((self, messages),) if messages else ()

    def recv_batch(self, now: float) -> list[memoryview]:
        """The messages that wait, up to a bound; views valid until the next call. Raises LinkDown."""
        datagrams: list[memoryview] = []
        octets = 0
        for buffer in self._buffers:
            try:
                count, sender = self._sock.recvfrom_into(buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._note(error)
                continue
            if not self._source.admits(sender, now):
                self.drops[Reason.STRANGER] += 1
                continue
            datagrams.append(buffer[:count])
            octets += count
            if octets >= TURN_BYTES:
                break
        if datagrams:
            self.heard = now
            self.trouble = ""
            self.unanswered = False
        return datagrams

    def send_batch(self, messages: Sequence[Buffer]) -> int:
        """Takes every message; what the network refuses at once is counted in `drops`."""
        target = self._source.address
        if target is None:
            self.drops[Reason.NO_PEER] += len(messages)
            return len(messages)
        self.unanswered = True
        for message in messages:
            try:
                self._sock.sendto(message, target)
            except (BlockingIOError, InterruptedError):
                self.drops[Reason.QUEUE_FULL] += 1
            except OSError as error:
                self._note(error)
                self.drops[Reason.SEND_REFUSED] += 1
        return len(messages)

    def _note(self, error: OSError) -> None:
        if error.errno not in errqueue.REFUSED:
            raise LinkDown(addresses.said(error)) from None
        if error.errno not in errqueue.TOO_MUCH:
            self.trouble = addresses.said(error)
        errqueue.read(self._sock)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._watch.close()
        self._sock.close()


def watch(sock: socket.socket) -> select.epoll:
    """What the loop shall watch in the place of `sock`. Raises OSError (EMFILE).

    uvloop stops watching a descriptor for good when it reports EPOLLERR, and with IP_RECVERR an ICMP message is
    enough for that. An epoll descriptor around the socket is readable then, and never reports EPOLLERR.
    """
    watched = select.epoll()
    watched.register(sock, select.EPOLLIN)
    return watched


def open_bound(endpoint: Endpoint) -> socket.socket:
    """A UDP socket on `endpoint`, for the peer to find. Raises OSError."""
    sock = bind(endpoint, socket.SOCK_DGRAM)
    _prepare(sock)
    return sock


def open_unbound() -> socket.socket:
    """A UDP socket on any free port, for both families where the host has both. Raises OSError."""
    try:
        sock = bind(Endpoint("::", 0), socket.SOCK_DGRAM)
    except OSError:
        # The host has no IPv6.
        sock = bind(Endpoint("0.0.0.0", 0), socket.SOCK_DGRAM)
    _prepare(sock)
    return sock


def _prepare(sock: socket.socket) -> None:
    for force, bounded in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, bounded, SOCKET_BUFFER_BYTES)
    errqueue.enable(sock)
