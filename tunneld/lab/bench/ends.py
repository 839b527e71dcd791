"""A measuring end: a process of its own in a host, so that the measuring shares no interpreter with a daemon.

It takes one request at a time, a line of JSON, from the Unix socket that it is given, and answers with another.
What receives answers twice: with its port as soon as it listens, and with what it got.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from tunneld.edge import clock
from tunneld.lab.ping import internet_checksum

Answer = dict[str, Any]

BLOCK = 1 << 18  # bytes written at once: large, so that the sender's own cost is small
STALLED = 5.0  # seconds without progress after which a transfer has failed
# Of the duration of a transfer, what counts: not the slow start, nor the end, when the sender may have stopped.
WARM, DONE = 0.25, 0.95
BURST = 64  # datagrams between two looks at the clock
MOST_AT_ONCE = 128  # datagrams of a measured rate: a quarter of the queue that a TUN device has by default
PACE = 0.0001  # seconds between two bursts of a measured rate
BUFFER_BYTES = 1 << 22  # the kernel bounds it by net.core.rmem_max
NAP = 0.0005  # seconds; a datagram buffer of 200 KB fills in twice that at 600,000 a second
QUIET = 0.3  # seconds of silence after which a datagram is lost; longer than a retransmission of TCP takes
LOST = 1.0  # seconds after which an echo is lost
GAP = 0.001  # seconds between two echoes, for which the tunnel falls asleep
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8  # the index of the datagrams that the socket had no room for
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


class Channel:
    """The line to the bench."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lines = sock.makefile("r", encoding="ascii")

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Answer | None:
        """The next request; None: the bench has gone."""
        line = self._lines.readline()
        request: Answer | None = json.loads(line) if line else None
        return request

    def write(self, answer: Answer) -> None:
        self._socket.sendall(json.dumps(answer).encode() + b"\n")


class Window:
    """The middle of a transfer of `seconds`; `note` takes totals, which `rate` turns into units a second."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: float | None = None
        self._start = (0.0, 0)
        self._total = 0

    def note(self, now: float, total: int) -> None:
        if self._first is None:
            self._first = now
        passed = now - self._first
        if passed < WARM * self._seconds:
            self._start = (passed, total)
        if passed <= DONE * self._seconds:
            self._total = total

    def rate(self) -> float:
        began, before = self._start
        return (self._total - before) / (DONE * self._seconds - began)


def send_stream(channel: Channel, *, address: str, port: int, seconds: float) -> Answer:
    """Write to a TCP connection for `seconds`. `busy` is the share of a core that the sender itself took."""
    block = os.urandom(BLOCK)
    sent = 0
    with socket.create_connection((address, port), STALLED) as sock:
        began, worked = clock.now(), time.process_time()
        while clock.now() - began < seconds:
            sent += sock.send(block)
        busy = (time.process_time() - worked) / (clock.now() - began)
        sock.shutdown(socket.SHUT_WR)
        if sock.recv(1):
            raise ConnectionError("the receiver has sent something")
    return {"sent": sent, "busy": busy}


def receive_stream(channel: Channel, *, address: str, seconds: float) -> Answer:
    """Read one TCP connection to its end. `rate` is in bytes per second."""
    buffer = bytearray(BLOCK)
    window = Window(seconds)
    received = 0
    with socket.create_server((address, 0)) as listener:
        listener.settimeout(STALLED)
        channel.write({"port": listener.getsockname()[1]})
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(STALLED)
            began, worked = clock.now(), time.process_time()
            while size := sock.recv_into(buffer):
                received += size
                window.note(clock.now(), received)
            busy = (time.process_time() - worked) / (clock.now() - began)
    return {"received": received, "rate": window.rate(), "busy": busy}


def send_datagrams(
    channel: Channel, *, address: str, port: int, payload: str, seconds: float, rate: float | None
) -> Answer:
    """Send UDP datagrams for `seconds`: `rate` a second, or as many as the kernel takes.

    One call for each, although UDP_SEGMENT would be faster: a tunnel that takes whole bursts from the kernel would be
    measured with bursts then, not with small packets. `waits` counts the moments in which the socket had no room,
    which is how a full device slows its sender down.
    """
    datagram = bytes.fromhex(payload)
    sent = waits = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.setblocking(False)
        began = pace = clock.now()
        while (now := clock.now()) - began < seconds:
            due = BURST
            if rate is not None:
                # Whoever was late does not catch up in one burst, which would be a loss of its own making.
                pace = max(pace, now - MOST_AT_ONCE / rate)
                due = int((now - pace) * rate)
                pace += due / rate
            for _ in range(due):
                try:
                    sock.send(datagram)
                except BlockingIOError:
                    waits += 1
                    select.select([], [sock], [], STALLED)
                else:
                    sent += 1
            if rate is not None:
                time.sleep(PACE)
        elapsed = clock.now() - began
    return {"sent": sent, "waits": waits, "rate": sent / elapsed}


def receive_datagrams(channel: Channel, *, address: str, payload: str, seconds: float) -> Answer:
    """Count UDP datagrams until as many have arrived as the bench then says were sent, or nothing comes any more.

    `rate` is in datagrams per second; `strange` counts those that nobody sent so, `overflown` those for which this
    end was too slow.
    """
    datagram = bytes.fromhex(payload)
    window = Window(seconds)
    received = strange = 0
    sent: int | None = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((address, 0))
        sock.setblocking(False)
        channel.write({"port": sock.getsockname()[1]})
        heard = clock.now()
        while sent is None or (received < sent and clock.now() - heard < QUIET):
            fresh = 0
            try:
                while fresh < BURST:
                    if sock.recv(2048) == datagram:
                        fresh += 1
                    else:
                        strange += 1
            except BlockingIOError:
                # Sleeping a little is cheaper for everybody than waking up for each datagram.
                if select.select([] if sent is not None else [channel], [], [], NAP)[0]:
                    request = channel.read()
                    if request is None:
                        raise ConnectionError("the bench has gone") from None
                    sent = int(request["sent"])
                    heard = clock.now()
            if fresh:
                received += fresh
                heard = clock.now()
                window.note(heard, received)
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
    overflown = struct.unpack_from("=I", memory, 4 * SK_MEMINFO_DROPS)[0]
    return {"received": received, "rate": window.rate(), "strange": strange, "overflown": overflown}


def ping(channel: Channel, *, address: str, seconds: float) -> Answer:
    """ICMP echoes for `seconds`, each after the one before; the far kernel answers. `times` are in seconds."""
    identifier = os.getpid() & 0xFFFF
    times: list[float] = []
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((address, 0))
        end = clock.now() + seconds
        while (began := clock.now()) < end:
            sent += 1
            sock.send(_echo_request(identifier, sent & 0xFFFF))
            if _answered(sock, identifier, sent & 0xFFFF, began + LOST):
                times.append(clock.now() - began)
            time.sleep(GAP)
    return {"sent": sent, "times": times}


def _echo_request(identifier: int, sequence: int) -> bytes:
    data = bytes(56)
    checksum = internet_checksum(_ECHO.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + data)
    return _ECHO.pack(_ECHO_REQUEST, 0, checksum, identifier, sequence) + data


def _answered(sock: socket.socket, identifier: int, sequence: int, deadline: float) -> bool:
    while (left := deadline - clock.now()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            break
        kind, _, _, *theirs = _ECHO.unpack_from(packet, (packet[0] & 0x0F) * 4)
        if kind == _ECHO_REPLY and theirs == [identifier, sequence]:
            return True
    return False


JOBS: dict[str, Callable[..., Answer]] = {
    job.__name__: job for job in (send_stream, receive_stream, send_datagrams, receive_datagrams, ping)
}


def serve(sock: socket.socket) -> None:
    """Answer requests until the bench closes `sock`. Our own bugs end the process, with a traceback in its log."""
    channel = Channel(sock)
    while (request := channel.read()) is not None:
        job = JOBS[request.pop("job")]
        try:
            answer = job(channel, **request)
        except OSError as error:
            answer = {"error": f"{job.__name__.replace('_', ' ')}: {error}"}
        channel.write(answer)


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as bench:
        bench.connect(sys.argv[1])
        serve(bench)
