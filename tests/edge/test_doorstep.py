from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import closing

import pytest

from tests.edge.pairs import open_descriptors, readable, until
from tunneld.edge import doorstep
from tunneld.edge.doorstep import first_message, leave

SIZE = 148
MESSAGE = bytes(range(SIZE))
FRAMED = struct.pack("!H", SIZE) + MESSAGE


@pytest.fixture
def pair():
    """Our side, which does not block, and the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    other.settimeout(5)
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with closing(ours), closing(other):
        yield ours, other


def first(ours: socket.socket, size: int = SIZE):
    return asyncio.wait_for(first_message(ours.fileno(), size), 5)


def arrived(ours: socket.socket, count: int) -> None:
    """Wait until so many bytes can be read."""
    waiting = 0
    while waiting < count:
        assert readable(ours.fileno())
        waiting = len(ours.recv(count, socket.MSG_PEEK))


async def test_the_first_message_is_taken_and_nothing_behind_it(pair):
    ours, other = pair
    other.sendall(FRAMED + b"next")
    assert await first(ours) == MESSAGE
    await until(lambda: ours.recv(100, socket.MSG_PEEK) == b"next")


async def test_it_may_come_in_pieces(pair):
    ours, other = pair

    async def send():
        for octet in FRAMED:
            other.sendall(bytes([octet]))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        assert await first(ours) == MESSAGE


@pytest.mark.parametrize("length", [0, 1, SIZE - 1, SIZE + 1, 0x4745, 0x1603, 65535])
async def test_behind_another_length_nothing_is_read(pair, length):
    ours, other = pair
    other.sendall(struct.pack("!H", length) + b"rest")
    assert await first(ours) is None
    await until(lambda: ours.recv(100, socket.MSG_PEEK) == b"rest")


@pytest.mark.parametrize("sent", [b"", FRAMED[:1], FRAMED[:2], FRAMED[:-1]])
async def test_the_end_of_the_stream_is_told(pair, sent):
    ours, other = pair
    other.sendall(sent)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        await first(ours)


async def test_a_reset_is_told(pair):
    ours, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    with pytest.raises(ConnectionResetError):
        await first(ours)


async def test_who_stops_to_wait_leaves_nothing_behind_in_the_loop(pair):
    ours, other = pair
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first_message(ours.fileno(), SIZE), 0.01)
    other.sendall(FRAMED)
    assert await first(ours) == MESSAGE


@pytest.mark.parametrize("unread", [0, 1, 100_000])
def test_leaving_looks_the_same_whatever_was_left_unread(pair, unread):
    ours, other = pair
    other.sendall(bytes(unread))
    arrived(ours, unread)
    leave(ours)
    assert other.recv(1) == b""


def test_closing_alone_tells_what_was_left_unread(pair):
    """What `leave` is for."""
    ours, other = pair
    other.sendall(b"1")
    arrived(ours, 1)
    ours.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_leaving_ends_though_the_other_side_never_stops_sending(pair, monkeypatch):
    ours, other = pair
    monkeypatch.setattr(doorstep, "DISCARD_BYTES", 1)
    other.sendall(bytes(100_000))
    arrived(ours, 100_000)
    leave(ours)
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_leaving_twice_or_what_is_gone_is_harmless(pair):
    ours, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    before = open_descriptors()
    leave(ours)
    leave(ours)
    assert open_descriptors() == before - 1


async def test_a_closed_descriptor_is_a_bug_and_no_end(pair):
    ours, _ = pair
    descriptor = os.dup(ours.fileno())
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await first_message(descriptor, SIZE)
