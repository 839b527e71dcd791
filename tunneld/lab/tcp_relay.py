"""A bad wire for TCP: a relay that passes every byte in order, late, in small pieces, or not at all."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType

from tunneld.lab import sockets
from tunneld.lab.host import Host
from tunneld.lab.impairment import CLEAN, Impairment, Stream
from tunneld.lab.sockets import Address

READ = 65536  # bytes a read
HELD = 1 << 20  # bytes under way in one direction before its reader stops
SO_ATTACH_FILTER = 26
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0


class TcpRelay:
    """Runs in `host`, where clients connect to `listen`; connects onwards to `target` for each of them.

    A context manager inside a running loop. `accepted` counts the connections so far.
    """

    def __init__(
        self, host: Host, listen: Address, target: Address, *, seed: int = 0, impairment: Impairment = CLEAN
    ) -> None:
        self.host = host
        self.target = target
        self.accepted = 0
        self._seeds = itertools.count(seed * 1_000_003)
        self._impairment = impairment
        self._stalled = False
        self._listener = sockets.tcp_listener(host, listen)
        self._connections: list[_Connection] = []

    def __enter__(self) -> TcpRelay:
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self.reset()

    @property
    def connections(self) -> int:
        """How many are open, those that are half open included."""
        self._connections = [connection for connection in self._connections if not connection.closed]
        return len(self._connections)

    def impair(self, impairment: Impairment) -> None:
        """From now on, both ways. Raises ValueError for what cannot happen within a TCP stream."""
        self._impairment = impairment
        for connection in self._connections:
            connection.impair(impairment)

    def reset(self) -> None:
        """End every connection by RST, both ways. New ones are served."""
        for connection in self._connections:
            connection.reset()

    def finish(self) -> None:
        """End every connection by FIN, both ways, without what is under way. New ones are served."""
        for connection in self._connections:
            connection.close()

    def half_open(self) -> None:
        """Go silent on every connection: nothing is passed or acknowledged any more, not even a keepalive probe.

        New ones are served.
        """
        for connection in self._connections:
            connection.darken()

    def stall(self) -> None:
        """Stop reading on every connection, new ones included, while the sockets stay alive: a peer that is stuck."""
        self._stalled = True
        for connection in self._connections:
            connection.stall()

    def resume(self) -> None:
        """Read again after `stall`."""
        self._stalled = False
        for connection in self._connections:
            connection.resume()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        try:
            upstream = sockets.tcp_connecting(self.host, self.target)
        except OSError:
            _reset(client)
            return
        streams = (Stream(next(self._seeds), self._impairment), Stream(next(self._seeds), self._impairment))
        self._connections = [connection for connection in self._connections if not connection.closed]
        self._connections.append(_Connection(client, upstream, streams))
        if self._stalled:
            self._connections[-1].stall()


class _Connection:
    """Two sockets and a half for each direction between them."""

    def __init__(self, client: socket.socket, upstream: socket.socket, streams: tuple[Stream, Stream]) -> None:
        self.closed = False
        self._sockets = (client, upstream)
        self._halves = (
            _Half(client, upstream, streams[0], self._half_ended, self.reset),
            _Half(upstream, client, streams[1], self._half_ended, self.reset),
        )
        self.resume()

    def impair(self, impairment: Impairment) -> None:
        for half in self._halves:
            half.stream.impairment = impairment

    def stall(self) -> None:
        for half in self._halves:
            half.stall()

    def resume(self) -> None:
        for half in self._halves:
            half.resume()

    def darken(self) -> None:
        """The filter sits in front of TCP itself, so that the kernel does not answer in our place either."""
        self._stop()
        program = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))
        for sock in self._sockets:
            if not self.closed:
                sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def reset(self) -> None:
        self._stop()
        self.closed = True
        for sock in self._sockets:
            _reset(sock)

    def close(self) -> None:
        self._stop()
        self.closed = True
        for sock in self._sockets:
            sock.close()

    def _half_ended(self) -> None:
        if all(half.ended for half in self._halves):
            self.close()

    def _stop(self) -> None:
        for half in self._halves:
            half.stop()


class _Half:
    """One direction: read from `source`, wait as the stream says, write to `sink`; the end of file as well."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        stream: Stream,
        on_end: Callable[[], None],
        on_error: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.ended = False
        self._source = source
        self._sink = sink
        self._on_end = on_end
        self._on_error = on_error
        self._queue: deque[tuple[float, memoryview]] = deque()  # an empty piece is the end of file
        self._held = 0
        self._stalled = True
        self._stopped = False
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None

    def stall(self) -> None:
        self._stalled = True
        self._update()

    def resume(self) -> None:
        self._stalled = False
        self._update()

    def stop(self) -> None:
        """For good: no callback of this half runs any more."""
        if self._stopped:
            return
        self._stopped = True
        self._update()
        asyncio.get_running_loop().remove_writer(self._sink.fileno())
        if self._timer is not None:
            self._timer.cancel()

    def _update(self) -> None:
        """Read exactly while that is wanted."""
        wanted = not (self._stopped or self._stalled or self._held >= HELD or self._at_end())
        loop = asyncio.get_running_loop()
        if wanted and not self._reading:
            loop.add_reader(self._source.fileno(), self._read)
        elif self._reading and not wanted:
            loop.remove_reader(self._source.fileno())
        self._reading = wanted

    def _at_end(self) -> bool:
        return self.ended or bool(self._queue and not self._queue[-1][1])

    def _read(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            data = self._source.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            self._on_error()
            return
        if data:
            self._queue.extend((due, memoryview(piece)) for due, piece in self.stream.pieces(now, data))
        else:
            self._queue.append((self._queue[-1][0] if self._queue else now, memoryview(b"")))
        self._held += len(data)
        self._update()
        self._write(now)

    def _write(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._sink.fileno())
        while self._queue:
            due, piece = self._queue[0]
            if due > now:
                self._arm(due)
                return
            try:
                if not piece:
                    self._finish()
                    return
                sent = self._sink.send(piece)
            except BlockingIOError:
                loop.add_writer(self._sink.fileno(), self._write, now)
                return
            except OSError:
                self._on_error()
                return
            self._held -= sent
            if sent == len(piece):
                self._queue.popleft()
            else:
                self._queue[0] = (due, piece[sent:])
        self._update()

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._write, due)

    def _finish(self) -> None:
        self._sink.shutdown(socket.SHUT_WR)
        self._queue.clear()
        self.ended = True
        self._on_end()


def _reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
