from __future__ import annotations

import os
import socket
import threading

import pytest

from tunneld.edge import netns
from tunneld.lab import sandbox

pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.fixture
def namespace():
    fd = netns.new()
    yield fd
    os.close(fd)


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_new_namespace_is_another_one_and_ours_stays(namespace):
    before = here()

    inside = netns.call_in(namespace, here)

    assert inside == os.fstat(namespace).st_ino != before
    assert here() == before


def test_no_namespace_means_this_one_and_this_thread():
    assert netns.call_in(None, threading.get_ident) == threading.get_ident()


def test_a_socket_opened_there_and_used_here_belongs_there(namespace):
    netns.call_in(namespace, sandbox.lo_up)
    with (
        netns.call_in(namespace, lambda: socket.create_server(("127.0.0.1", 0))) as server,
        netns.call_in(namespace, lambda: socket.create_connection(server.getsockname(), timeout=5)) as client,
    ):
        assert client.getpeername() == server.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.getsockname(), timeout=5)


def test_an_exception_comes_back_as_it_was(namespace):
    error = LookupError("inside")

    def fail() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        netns.call_in(namespace, fail)
    assert caught.value is error


def test_what_is_no_namespace_cannot_be_entered():
    with open(os.devnull) as nothing, pytest.raises(OSError, match="setns"):
        netns.call_in(nothing.fileno(), here)


def test_a_named_namespace_is_found_by_name_and_by_path(ip):
    ip("netns", "add", "work")
    try:
        inodes = []
        for name in ("work", "/run/netns/work"):
            fd = netns.open_named(name)
            inodes.append(netns.call_in(fd, here))
            os.close(fd)
        assert inodes[0] == inodes[1] != here()
    finally:
        ip("netns", "del", "work")


def test_a_name_that_is_not_there_is_an_oserror():
    with pytest.raises(FileNotFoundError):
        netns.open_named("nowhere")


def test_descriptors_are_not_inherited(namespace):
    assert not os.get_inheritable(namespace)


def test_no_thread_is_left():
    before = threading.active_count()
    os.close(netns.new())
    assert threading.active_count() == before
