"""A remote shell over one TCP connection, as ssh's traffic looks: a key out, its echo back. Of course in clear."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tunneld.edge import clock
from tunneld.lab import sockets
from tunneld.lab.child import readable
from tunneld.lab.host import Host
from tunneld.lab.sockets import Address

PROMPT = "$ "
_READ = 4096


@dataclass(frozen=True, slots=True)
class Typed:
    """One command: what the shell answered, and for each key the seconds until its echo was back."""

    answer: str
    echoes: tuple[float, ...]


class Session:
    """The client's side of a remote shell; `open` one."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._socket = sock
        self._timeout = timeout

    @classmethod
    @asynccontextmanager
    async def open(cls, client: Host, server: Host, address: Address, timeout: float = 5.0) -> AsyncIterator[Session]:
        """A shell (`sh`, on a terminal) on `server`, spoken to from `client` through `address`.

        `timeout` seconds bound each command. Raises OSError, TimeoutError.
        """
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(sockets.tcp_listener(server, address))
            async with asyncio.timeout(timeout):
                near = stack.enter_context(await sockets.tcp_connect(client, address))
                await readable(listener.fileno())
            far = stack.enter_context(listener.accept()[0])
            far.setblocking(False)
            master, slave = pty.openpty()
            stack.callback(os.close, master)
            try:
                shell = server.spawn(
                    ["sh"], name="shell", env={"PS1": PROMPT, "ENV": "", "TERM": "dumb"}, terminal=slave
                )
            finally:
                os.close(slave)
            os.set_blocking(master, False)
            with _Copy(far.fileno(), master), _Copy(master, far.fileno()):
                session = cls(near, timeout)
                try:
                    async with asyncio.timeout(timeout):
                        await session._read_until(PROMPT)
                    yield session
                finally:
                    await shell.kill()

    async def type(
        self, command: str, *, pause: float = 0.0, progress: Callable[[str], None] = lambda typed: None
    ) -> Typed:
        """Type a command key by key, each after the echo of the one before and a `pause` in seconds.

        `progress` is told what has been typed and echoed so far.

        Raises TimeoutError, ConnectionError.
        """
        echoes = []
        async with asyncio.timeout(self._timeout):
            for letter in command:
                began = clock.now()
                self._socket.send(letter.encode())
                await self._read_until(letter)
                echoes.append(clock.now() - began)
                progress(command[: len(echoes)])
                await asyncio.sleep(pause)
            self._socket.send(b"\n")
            answer = await self._read_until(PROMPT)
        return Typed(answer.removesuffix(PROMPT).strip(), tuple(echoes))

    async def _read_until(self, end: str) -> str:
        text = ""
        while not text.endswith(end):
            data = await asyncio.get_running_loop().sock_recv(self._socket, _READ)
            if not data:
                raise ConnectionResetError("the shell has gone")
            text += data.decode(errors="replace")
        return text


class _Copy:
    """One direction of the server's side: what can be read from `source` is written to `sink`, until either ends."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._pending = b""

    def __enter__(self) -> None:
        asyncio.get_running_loop().add_reader(self._source, self._read)

    def __exit__(self, *exception: object) -> None:
        asyncio.get_running_loop().remove_reader(self._source)
        asyncio.get_running_loop().remove_writer(self._sink)

    def _read(self) -> None:
        try:
            self._pending = os.read(self._source, _READ)
        except BlockingIOError:
            return
        except OSError:  # EIO: the shell has closed its terminal; ECONNRESET: the client has gone
            self._pending = b""
        asyncio.get_running_loop().remove_reader(self._source)
        if self._pending:
            self._write()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._sink)
        try:
            self._pending = self._pending[os.write(self._sink, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            return
        if self._pending:
            loop.add_writer(self._sink, self._write)
        else:
            loop.add_reader(self._source, self._read)
