"""Each in a process of its own: entering cannot be undone. All of them start inside the sandbox of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tunneld.lab import sandbox


@pytest.fixture
def script(namespaces):
    def run(text: str) -> str:
        code = "import os, pathlib, socket\nfrom tunneld.edge import netns\nfrom tunneld.lab import sandbox\n"
        argv = [sys.executable, "-c", code + textwrap.dedent(text)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert done.stderr == ""
        return done.stdout.strip()

    return run


ENTER = """
try:
    print(sandbox.enter())
except sandbox.SandboxUnavailableError as error:
    print(error)
"""

# As a user without privileges, who still may limit the namespaces below his own.
AS_USER = """
outside = os.geteuid()
netns.unshare(netns.CLONE_NEWUSER)
pathlib.Path("/proc/self/setgroups").write_text("deny")
pathlib.Path("/proc/self/uid_map").write_text(f"1000 {outside} 1")
pathlib.Path("/proc/self/gid_map").write_text(f"1000 {outside} 1")
assert os.geteuid() == 1000
"""


def test_root_gets_a_network_and_a_run_of_its_own(script):
    marker = sandbox.Path("/run/marker-of-the-test")
    marker.touch()
    try:
        lines = script(
            """
            before = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/mnt")
            print(sandbox.enter())
            print(before[0] != os.readlink("/proc/self/ns/net"), before[1] != os.readlink("/proc/self/ns/mnt"))
            print(os.listdir("/run"))
            with socket.create_server(("127.0.0.1", 7000)) as server:
                socket.create_connection(server.getsockname(), timeout=5).close()
            pathlib.Path("/run/left-behind").touch()
            """
        ).split("\n")
    finally:
        marker.unlink()
    assert lines == ["root", "True True", "[]"]
    assert not os.path.exists("/run/left-behind")


def test_a_user_becomes_root_of_a_namespace(script):
    assert script(AS_USER + ENTER + "print(os.geteuid())").split() == ["userns", "0"]


def test_a_root_without_the_capability_does_as_a_user(script):
    drop = """
import ctypes
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
for at in (0, 1):  # effective, permitted
    sets[at] &= ~(1 << 21)  # CAP_SYS_ADMIN
assert libc.capset(header, sets) == 0
"""
    assert script(drop + ENTER) == "userns"


def test_a_limit_of_the_system_is_said_with_its_sysctl(script):
    said = script(AS_USER + 'pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")' + ENTER)
    assert said.startswith("this machine does not let us make namespaces: No space left on device; ")
    assert "sudo sysctl user.max_user_namespaces=" in said
    assert "\n" not in said


def test_a_refusal_is_one_line_with_a_remedy(script):
    """A user who has no identity in his namespace may make no other one."""
    said = script("netns.unshare(netns.CLONE_NEWUSER)" + ENTER)
    assert said.startswith("this machine does not let us make namespaces: Operation not permitted; run ")
    assert "\n" not in said
