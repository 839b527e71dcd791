from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading

import pytest

from tests.conftest import missing
from tunneld import control
from tunneld.control import LARGEST_REQUEST, MOST_CLIENTS, ControlError, ControlServer, NotRunning, request

# Far more than the kernel has room for between the two ends.
LONG = {"text": "x" * 4_000_000}
HANDLERS = {"status": lambda _: {"state": "up", "link": "a → b"}, "long": lambda _: LONG}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "left.sock"


@pytest.fixture
async def server(path):
    async with ControlServer(path, HANDLERS) as server:
        yield server


@pytest.mark.usefixtures("server")
async def test_a_request_is_answered(path):
    assert await ask(path, "status") == {"state": "up", "link": "a → b"}


async def test_an_answer_of_any_length_goes_out_in_pieces_and_holds_nobody_up(path, server):
    reader, writer = await asyncio.open_unix_connection(path, limit=1000)
    writer.write(b'{"request": "long"}\n')
    await until(lambda: server._clients)
    assert await ask(path, "status") == HANDLERS["status"]({})
    assert json.loads(await reader.read()) == LONG
    assert await ask(path, "long") == LONG
    await until(lambda: not server._clients)
    writer.close()


async def test_who_asks_and_does_not_read_is_dropped(path):
    async with ControlServer(path, HANDLERS, idle=0.1) as server:
        reader, writer = await asyncio.open_unix_connection(path, limit=1000)
        writer.transport.pause_reading()
        writer.write(b'{"request": "long"}\n')
        await until(lambda: server._clients)
        await until(lambda: not server._clients)
        writer.transport.resume_reading()
        assert len(await reader.read()) < len(LONG["text"])
        writer.close()


async def test_who_goes_while_it_is_answered_leaves_nothing(path, server):
    _, writer = await asyncio.open_unix_connection(path, limit=1000)
    writer.transport.pause_reading()
    writer.write(b'{"request": "long"}\n')
    await until(lambda: any(client._unsent for client in server._clients))
    writer.transport.abort()
    await until(lambda: not server._clients)


async def test_an_answer_that_drips_is_late(path):
    """Each byte comes soon enough after the last."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        over = threading.Event()

        def drip():
            client, _ = listener.accept()
            with client, contextlib.suppress(BrokenPipeError):
                while not over.wait(0.02):
                    client.send(b"1", socket.MSG_NOSIGNAL)

        with serving(drip):
            try:
                with pytest.raises(ControlError, match=r"^no answer within 0\.2 s$"):
                    await asyncio.to_thread(request, path, {"request": "status"}, 0.2)
            finally:
                over.set()


async def test_an_answer_without_end_is_left(path, monkeypatch):
    monkeypatch.setattr(control, "LARGEST_ANSWER", 1_000_000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def pour():
            client, _ = listener.accept()
            with client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while True:
                    client.send(bytes(65536), socket.MSG_NOSIGNAL)

        refused = pytest.raises(ControlError, match=r"^an answer of more than 1000000 bytes; is that the socket")
        with serving(pour), refused:
            await asyncio.to_thread(request, path, {"request": "status"})


@pytest.mark.usefixtures("server")
async def test_a_request_that_nobody_handles_is_refused(path):
    with pytest.raises(ControlError, match=r"^unknown request; there are: status, long$"):
        await ask(path, "self-destruct")


@pytest.mark.usefixtures("server")
async def test_a_request_may_come_in_pieces(path):
    reader, writer = await asyncio.open_unix_connection(path)
    for byte in b'{"request": "status"}\n':
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert json.loads(await reader.readline()) == HANDLERS["status"]({})
    assert await reader.read() == b""
    writer.close()


JUNK = [
    b"\n",
    b"null\n",
    b"[]\n",
    b"{\n",
    b"\xff\xfe\x00\n",
    b'{"request": null}\n',
    b'{"request": ["status"]}\n',
    b'{"request": {}}\n',
    b'{"request": "\\ud800"}\n',
    b"[" * 60_000 + b"\n",
    b"9" * 10_000 + b"\n",
    b"x" * (LARGEST_REQUEST + 1),
    b"x" * (10 * LARGEST_REQUEST),
]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk[:12]))
async def test_junk_gets_an_error_line(path, junk):
    answer = await send(path, junk)
    assert isinstance(json.loads(answer)["error"], str)
    assert (await ask(path, "status"))["state"] == "up"


@pytest.mark.usefixtures("server")
async def test_any_bytes_get_one_line_or_none_and_never_end_the_server(path):
    lots = random.Random(8)
    for _ in range(300):
        junk = lots.randbytes(lots.randrange(200))
        if lots.random() < 0.5:
            junk = bytearray(b'{"request": "status", "x": [1, {"y": null}]}\n')
            junk[lots.randrange(len(junk))] = lots.randrange(256)
        answer = await send(path, bytes(junk), end=True)
        assert answer == b"" or (answer.count(b"\n") == 1 and isinstance(json.loads(answer), dict))
    assert (await ask(path, "status"))["state"] == "up"


async def test_clients_are_few(path, server):
    idle = [await asyncio.open_unix_connection(path) for _ in range(MOST_CLIENTS)]
    with pytest.raises(ControlError, match=r"^too many clients; try again$"):
        await ask(path, "status")
    assert len(server._clients) == MOST_CLIENTS
    idle[0][1].close()
    await until(lambda: len(server._clients) < MOST_CLIENTS)
    assert (await ask(path, "status"))["state"] == "up"
    for _, writer in idle:
        writer.close()


async def test_a_client_that_says_nothing_is_dropped(path):
    async with ControlServer(path, HANDLERS, idle=0.05) as server:
        reader, writer = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert server._clients == set()
        writer.close()


async def test_a_client_that_vanishes_leaves_nothing(path, server):
    _, writer = await asyncio.open_unix_connection(path)
    await until(lambda: server._clients)
    writer.transport.abort()
    await until(lambda: not server._clients)


async def test_the_socket_is_for_its_owner_and_group_and_goes_with_the_server(path):
    before = os.umask(0)
    try:
        async with ControlServer(path, HANDLERS):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_handler_that_fails_is_reported_and_its_client_dropped(path):
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    async with ControlServer(path, {"bad": lambda _: {}["key"]}) as server:
        with pytest.raises(ControlError, match="no answer"):
            await ask(path, "bad")
        assert server._clients == set()
    assert [type(error) for error in seen] == [KeyError]


async def test_a_socket_that_a_killed_daemon_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with ControlServer(path, HANDLERS):
        assert (await ask(path, "status"))["state"] == "up"


@pytest.mark.usefixtures("server")
async def test_a_socket_that_is_answered_is_not_taken(path):
    with pytest.raises(OSError, match="in use"):
        ControlServer(path, HANDLERS).start()
    assert (await ask(path, "status"))["state"] == "up"


async def test_a_file_that_is_no_socket_is_left_alone(path):
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        ControlServer(path, HANDLERS).start()
    assert path.read_text() == "mine"


@pytest.mark.usefixtures("server")
async def test_strangers_are_turned_away_even_where_the_file_would_let_them_in(path):
    if os.geteuid() != 0 or not can_be_nobody():
        missing("only root of the first user namespace can become somebody else")
    path.chmod(0o666)
    path.parent.chmod(0o755)
    stranger = await ask_as(path, "os.setgroups([]); os.setgid(65534); os.setuid(65534)")
    assert stranger["error"].startswith("permission denied")
    assert (await ask_as(path, "os.setgroups([]); os.setuid(65534)"))["state"] == "up"
    assert (await ask_as(path, "os.setgroups([0]); os.setgid(65534); os.setuid(65534)"))["state"] == "up"


async def test_closing_twice_does_no_harm(path):
    server = ControlServer(path, HANDLERS)
    server.start()
    server.close()
    server.close()


def test_where_nobody_listens_nothing_runs(path):
    with pytest.raises(NotRunning):
        request(path, {})
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NotRunning):
        request(path, {})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "no answer"),
        (b"what?\n", "an answer that is not JSON"),
        (b'{"error": "busy"}\n', "busy"),
        (None, "within"),
    ],
)
def test_a_server_that_answers_badly_is_an_error(path, answer, message):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            client, _ = listener.accept()
            with client:
                client.recv(100)
                if answer is None:
                    client.recv(100)
                else:
                    client.sendall(answer)

        with serving(serve), pytest.raises(ControlError, match=message):
            request(path, {"request": "status"}, timeout=0.1 if answer is None else 5)


@pytest.mark.parametrize(
    ("variable", "directory"),
    [(None, "/run/tunneld"), ("", "/run/tunneld"), ("/run/a", "/run/a"), ("/run/a:/run/b", "/run/a")],
)
def test_the_runtime_directory_of_the_unit_comes_first(monkeypatch, variable, directory):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    if variable is not None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", variable)
    assert str(control.run_dir()) == directory
    assert str(control.socket_path("left")) == f"{directory}/left.sock"


@pytest.mark.parametrize(
    ("uid", "open_to_us", "own", "directory"),
    [
        (0, False, "/run/user/0", "/run/tunneld"),
        (1000, True, "/run/user/1000", "/run/tunneld"),
        (1000, False, "/run/user/1000", "/run/user/1000/tunneld"),
        (1000, False, None, "/run/tunneld"),
    ],
)
def test_a_user_to_whom_the_directory_is_closed_has_his_own(monkeypatch, uid, open_to_us, own, directory):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if own is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", own)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("os.access", lambda path, mode: open_to_us)
    assert str(control.run_dir()) == directory


async def ask(path, name):
    return await asyncio.to_thread(request, path, {"request": name})


async def send(path, data: bytes, *, end: bool = False) -> bytes:
    """What the server says to `data` before it closes; with `end` no more is sent after it."""

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(data)
                if end:
                    sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").readline()

    return await asyncio.to_thread(talk)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def can_be_nobody() -> bool:
    with open("/proc/self/uid_map") as stream:
        return any(int(line.split()[2]) > 65534 for line in stream)


async def ask_as(path, become: str) -> dict:
    """The answer to the request for the status from a process that first runs `become`."""
    # From within the directory, since those above it are closed to others.
    script = f"""
import os, socket
os.chdir({str(path.parent)!r})
{become}
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect({path.name!r})
    try:
        sock.sendall(b'{{"request": "status"}}\\n')
    except BrokenPipeError:
        pass
    print(sock.recv(1000).decode())
"""
    command = [sys.executable, "-c", script]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=30)
    return json.loads(done.stdout)


@contextlib.contextmanager
def serving(call):
    thread = threading.Thread(target=call)
    thread.start()
    yield
    thread.join(5)
    assert not thread.is_alive()
