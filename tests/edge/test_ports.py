from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tunneld.config import Endpoint
from tunneld.edge import ports

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def bound(transport: str, host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, KINDS[transport])
    sock.bind((host, 0))
    if transport == "tcp":
        sock.listen()
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_holder_of_a_port_is_found(transport, host):
    with bound(transport, host) as sock:
        port = sock.getsockname()[1]
        assert ports.holder(transport, port) == f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    assert ports.holder(transport, port) == ""


def test_another_process_is_found_too():
    code = """
import socket
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        assert ports.holder("tcp", port).startswith(f"pid {process.pid} (")
        process.communicate("\n")


def test_a_connection_is_no_listener():
    with bound("tcp", "127.0.0.1") as listener, socket.create_connection(listener.getsockname()) as sock:
        assert ports.holder("tcp", sock.getsockname()[1]) == ""


def test_the_other_transport_does_not_count():
    with bound("udp", "127.0.0.1") as sock:
        assert ports.holder("tcp", sock.getsockname()[1]) == ""


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EADDRNOTAVAIL, "cannot listen on udp 192.0.2.1:7: 192.0.2.1 is not an address of this host"),
        (errno.EACCES, "cannot listen on udp 192.0.2.1:7: needs CAP_NET_BIND_SERVICE; use a port of 1024 or more"),
        (errno.ENOBUFS, "cannot listen on udp 192.0.2.1:7: No buffer space available"),
    ],
)
def test_a_refusal_says_what_to_do(number, line):
    assert ports.refusal(OSError(number, os.strerror(number)), "udp", Endpoint("192.0.2.1", 7)) == line


def test_a_port_that_is_taken_names_who_has_it():
    with bound("tcp", "127.0.0.1") as sock:
        endpoint = Endpoint("127.0.0.1", sock.getsockname()[1])
        line = ports.refusal(OSError(errno.EADDRINUSE, ""), "tcp", endpoint)
    assert line.startswith(f"cannot listen on tcp {endpoint}: already used by pid {os.getpid()} (")
    assert line.endswith("); stop it or choose another port")
