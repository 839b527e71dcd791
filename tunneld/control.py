"""The control socket of a running tunnel: one line of JSON asks, one line of JSON answers, then it is closed.

Both ends live here, on the standard library alone and without asyncio, which `tunneld show` has no time to import.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

from tunneld.edge import clock

if TYPE_CHECKING:
    import asyncio

SYSTEM_DIR = Path("/run/tunneld")
MODE = 0o660
LARGEST_REQUEST = 64 * 1024
LARGEST_ANSWER = 64 * 1024 * 1024  # the status of some ten thousand peers
CHUNK = 256 * 1024
MOST_CLIENTS = 16
IDLE_SECONDS = 5.0
BACKLOG = 32
SO_PEERGROUPS = 59
MOST_GROUPS = 256  # Python's getsockopt has room for no more

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class PeerStatus(TypedDict):
    """A peer in a Status. Ages are whole or broken seconds, null while there is nothing to count from.

    What only sealed protocols know is null with plain.
    """

    name: str
    public_key: str | None
    endpoint: str | None  # of several the address in use; "A:PORT, B:PORT" while none is
    allowed_ips: list[str]
    keepalive: int  # seconds, 0 for none
    state: str  # as in Status
    reason: str
    link: str | None  # "udp 192.0.2.1:55555 → 192.0.2.2:55555"
    connected_since: float | None
    last_received: float | None
    latest_handshake: float | None
    received_bytes: int | None
    sent_bytes: int | None
    round_trip: float | None  # seconds, smoothed
    loss: float | None  # of the last 32 probes, 0 to 1
    differences: list[str]  # sentences: settings on which the two ends do not agree


class CauseStatus(TypedDict):
    """Why something was refused, and what to do about it; `peer` is null for a stranger."""

    cause: str
    peer: str | None
    count: int
    last: float  # seconds ago
    sentence: str


class Status(TypedDict):
    """The answer to the request "status", and what `tunneld show --json` prints."""

    name: str
    version: str
    protocol: str
    transport: str
    cipher: str | None
    public_key: str | None  # ours
    mode: str
    interface: str
    mtu: int | None
    state: str  # down, listening, connecting or up: the best that one of the peers has
    reason: str
    since: float  # seconds in this state
    uptime: float  # seconds since the start
    peers: list[PeerStatus]
    counters: dict[str, int]  # (device_read|device_written)_(packets|bytes), link_(sent|received)_(messages|bytes)
    drops: dict[str, int]  # by the value of their Reason
    causes: list[CauseStatus]  # the latest first


class ControlError(Exception):
    """No answer. `str()` is one clause with the cause."""


class NotRunning(ControlError):
    """Nobody listens on the socket."""


def run_dir() -> Path:
    """Where sockets and locks of running tunnels stand: the unit's runtime directory, or /run/tunneld.

    A user to whom /run/tunneld is closed has a directory of his own, so that the owner of a persistent device can
    run a tunnel on it.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    own = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given)
    if os.geteuid() == 0 or own is None or os.access(SYSTEM_DIR, os.X_OK):
        return SYSTEM_DIR
    return Path(own) / "tunneld"


def socket_path(name: str) -> Path:
    """The control socket of the tunnel `name`."""
    return run_dir() / f"{name}.sock"


def request(path: Path, message: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """Send `message` to the socket at `path` and return the answer. Blocks for at most `timeout` seconds.

    Raises NotRunning when nobody listens there, and ControlError when it is forbidden, late, too long, no answer or a
    refusal.
    """
    deadline = clock.now() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(os.fspath(path))
            # One that turns us away may have closed already; its reason can still be read.
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(_line(message))
            answer = _received(sock, deadline)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning("not running") from None
        except PermissionError:
            raise ControlError("permission denied; ask as root or as a member of the daemon's group") from None
        except TimeoutError:
            raise ControlError(f"no answer within {timeout:g} s") from None
        except OSError as error:
            raise ControlError(f"no answer ({error.strerror or error})") from None
    decoded = _decoded(answer)
    if decoded is None:
        raise ControlError("no answer" if not answer else "an answer that is not JSON")
    if isinstance(decoded.get("error"), str):
        raise ControlError(decoded["error"])
    return decoded


class ControlServer:
    """Answers a request, `{"request": NAME, …}`, with what `handlers[NAME]` makes of it, on the running loop.

    Use as an async context manager, or `start` and `close`. Only root, the own user and members of the own group are
    answered. What clients can cost is bounded: their number, what each sends, and how long it takes to ask and read
    (`idle` seconds in all). A handler that raises is a bug: the loop's exception handler gets it.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler], *, idle: float = IDLE_SECONDS) -> None:
        self._path = path
        self._handlers = handlers
        self._idle = idle
        self._clients: set[_Client] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Listen, in place of a socket that a killed daemon left. Raises OSError; EADDRINUSE when one is answered."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._listener = _listening(self._path)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening, drop the clients and remove the socket. May be called twice."""
        if self._listener is None:
            return
        for client in tuple(self._clients):
            client.close()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        assert self._listener is not None, "a closed server has no reader"
        try:
            sock, _ = self._listener.accept()
        except OSError:
            # The client has gone again, or we are out of descriptors: those come back as clients end.
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(0.1, self._listen_again)
            return
        sock.setblocking(False)
        refusal = ""
        if not _may_ask(sock):
            refusal = "permission denied; ask as root or as a member of the daemon's group"
        elif len(self._clients) >= MOST_CLIENTS:
            refusal = "too many clients; try again"
        if refusal:
            with sock, contextlib.suppress(OSError):
                sock.send(_line({"error": refusal}), socket.MSG_NOSIGNAL)
            return
        self._clients.add(_Client(self._loop, sock, self._idle, self._answer, self._clients.discard))

    def _listen_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        message = _decoded(line)
        if message is None:
            return {"error": "expected one line with a JSON object"}
        name = message.get("request")
        if not isinstance(name, str) or name not in self._handlers:
            return {"error": f"unknown request; there are: {', '.join(self._handlers)}"}
        return self._handlers[name](message)


class _Client:
    """One connection, until its line is answered, its time is over or it goes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        patience: float,
        answer: Callable[[bytes], Mapping[str, Any]],
        ended: Callable[[_Client], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._answer = answer
        self._ended = ended
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._timer = loop.call_later(patience, self.close)
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        self._timer.cancel()
        # Before the close: uvloop aborts on a reader whose descriptor is gone.
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._ended(self)

    def _readable(self) -> None:
        try:
            chunk = self._sock.recv(LARGEST_REQUEST + 1 - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._received += chunk
        line, newline, _ = bytes(self._received).partition(b"\n")
        try:
            if newline:
                self._reply(self._answer(line))
            elif len(self._received) > LARGEST_REQUEST:
                self._reply({"error": f"a request has at most {LARGEST_REQUEST} bytes"})
            elif not chunk:
                self.close()
        except BaseException:
            self.close()
            raise

    def _reply(self, message: Mapping[str, Any]) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._unsent = memoryview(_line(message))
        self._writable()

    def _writable(self) -> None:
        """Send as much as the kernel takes; the rest when it takes more, and then close."""
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        else:
            self.close()


def _listening(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Linux makes the file with the mode of the descriptor, so it is never open to others, not for a moment.
        os.fchmod(sock.fileno(), MODE)
        sock.bind(os.fspath(path))
        path.chmod(MODE)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        # EAGAIN: its backlog is full, so somebody is there.
        return probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN, errno.EACCES)


def _may_ask(sock: socket.socket) -> bool:
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid in (0, os.geteuid()) or gid == os.getegid():
        return True
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS * 4)
    except OSError:
        return False  # more groups than that
    return os.getegid() in struct.unpack(f"{len(groups) // 4}i", groups)


def _received(sock: socket.socket, deadline: float) -> bytes:
    """The bytes until the end of a line or of the connection. Raises TimeoutError, OSError, ControlError."""
    parts: list[bytes] = []
    room = LARGEST_ANSWER
    while not parts or (parts[-1] and b"\n" not in parts[-1]):
        left = deadline - clock.now()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        parts.append(sock.recv(CHUNK))
        room -= len(parts[-1])
        if room < 0:
            raise ControlError(f"an answer of more than {LARGEST_ANSWER} bytes; is that the socket of a tunnel?")
    return b"".join(parts).partition(b"\n")[0]


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace") + b"\n"


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
