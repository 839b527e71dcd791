from __future__ import annotations

import os
import socket

import pytest

from tunneld.edge.sdnotify import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """The socket that systemd would read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            sock.bind(address)
        else:
            address = f"@tunneld-test-{os.getpid()}"
            sock.bind("\0" + address[1:])
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield sock


def test_all_states_go_in_one_datagram(manager):
    notify("READY=1", "STATUS=up: 192.0.2.1 → 192.0.2.2")

    assert manager.recv(1000) == "READY=1\nSTATUS=up: 192.0.2.1 → 192.0.2.2".encode()


def test_a_manager_that_does_not_read_holds_nobody_up(manager):
    for i in range(1000):
        notify(f"STATUS={i}")

    assert manager.recv(1000) == b"STATUS=0"


@pytest.mark.parametrize(
    "address", [None, "", "/nowhere/notify", "@nobody-listens", "vsock:2:1", "/" + "x" * 200, "@"]
)
def test_it_never_raises(address, monkeypatch):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1", "STATUS=\udcff")
