from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import contextlib, ctypes, os, socket
from pathlib import Path
from tunneld.edge import netns, ports, process

def dumpable():
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE

assert dumpable() == 1
with contextlib.suppress(OSError):  # a user namespace knows no other user
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
process.hide_memory()
assert dumpable() == 0
"""
OWN_PROC = """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    assert ports.holder("udp", sock.getsockname()[1]).startswith(f"pid {os.getpid()} ")
os.close(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
assert "CapEff:" in Path("/proc/thread-self/status").read_text()
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("namespaces")
def test_without_privileges_and_hidden_all_that_the_daemon_reads_of_itself_can_be_read():
    done = run(HIDE + OWN_PROC)
    assert (done.returncode, done.stderr) == (0, "")
