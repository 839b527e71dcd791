from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What the children of these tests may call. They are processes, because what they give up they cannot get back.
PRELUDE = """
import ctypes, os, socket, sys
from tunneld.edge import ifinfo, netns, tuntap
from tunneld.edge.device import Device
from tunneld.proto.errors import DeviceError

libc = ctypes.CDLL(None, use_errno=True)

def own_dev_net():
    "An empty /dev/net for this process alone."
    netns.unshare(netns.CLONE_NEWNS)
    assert libc.mount(None, b"/", None, ctypes.c_ulong(0x44000), None) == 0
    assert libc.mount(b"tmpfs", b"/dev/net", b"tmpfs", 0, b"mode=0755") == 0

def open_to_all():
    "Some machines keep /dev/net/tun for root."
    if os.stat("/dev/net/tun").st_mode & 0o006 != 0o006:
        own_dev_net()
        os.mknod("/dev/net/tun", 0o020666, os.makedev(10, 200))
        os.chmod("/dev/net/tun", 0o666)

def drop_capabilities():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0

def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)

def outcome(call):
    "The one line that an operator would see, or ok."
    try:
        call()
    except DeviceError as error:
        print(error)
    else:
        print("ok")
"""


@pytest.fixture
def child():
    """child(code) -> what it printed, run as a process of its own in our namespaces; it must end with 0."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def ip(namespaces):
    """ip("link", "add", …): iproute2, which knows nothing of tunneld; returns what it printed."""
    from tests.conftest import missing

    def run(*words: str) -> str:
        try:
            return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
        except FileNotFoundError:
            missing("ip is not installed: apt-get install iproute2")
            raise

    return run


@pytest.fixture
def userns() -> bool:
    """Whether we live in a user namespace with one user: there is nobody else to become."""
    return (
        len(Path("/proc/self/uid_map").read_text().splitlines()) == 1
        and "4294967295" not in Path("/proc/self/uid_map").read_text()
    )


@pytest.fixture(autouse=True)
def _no_descriptor_left():
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {fd for fd in os.listdir("/proc/self/fd") if fd not in before and _is_tun(fd)}
    assert not left, "a device was left open"


def _is_tun(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "/dev/net/tun"
    except FileNotFoundError:
        return False
