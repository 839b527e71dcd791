"""The whole run lives in namespaces of its own; every async test runs on both loops unless it says otherwise."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import struct

import pytest
import uvloop
from hypothesis import settings

from tunneld.edge import netns
from tunneld.lab import sandbox

# A run repeats the last one; a slow machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
# For a run that only measures which lines are reached; see tests/test_house.py.
settings.register_profile("sparse", settings.get_profile("repeatable"), max_examples=20)
settings.load_profile("repeatable")

# Who is started in the background of a shell ignores Ctrl-C, and so would all that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LINUX_CAPABILITY_VERSION_3 = 0x20080522

REQUIRE_ALL = os.environ.get("TUNNELD_REQUIRE_ALL") == "1"

# At import, while the process still has one thread: see sandbox.enter.
try:
    # A worker of pytest-xdist begins inside the namespaces of its controller, and is root there in any case.
    MODE = os.environ.setdefault("TUNNELD_SANDBOX", sandbox.enter())
    UNAVAILABLE = ""
except sandbox.SandboxUnavailableError as error:
    MODE = "none"
    UNAVAILABLE = str(error)


if MODE == "userns":
    # Everybody is root in there, and pytest would want the directory of temporary files that is really root's.
    os.environ["LOGNAME"] = "root-of-a-namespace"


def pytest_report_header() -> str:
    return f"sandbox: {MODE} {UNAVAILABLE}".rstrip()


def pytest_asyncio_loop_factories():
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A report goes from worker to controller as UTF-8, and some tests log what is none."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def missing(reason: str) -> None:
    """Skip because this machine cannot do it; with TUNNELD_REQUIRE_ALL=1 that is a failure."""
    if REQUIRE_ALL:
        pytest.fail(f"TUNNELD_REQUIRE_ALL: {reason}")
    pytest.skip(reason)


@pytest.fixture
def namespaces() -> None:
    """For tests that need a network of their own and a TUN device."""
    if UNAVAILABLE:
        missing(UNAVAILABLE)
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        missing(f"cannot open /dev/net/tun: {error.strerror}")


@pytest.fixture
def without_capabilities():
    """Call something as a user without any capability, whoever runs the tests: a thread has its own."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call_without(call):
        def drop_and_call():
            header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
            assert libc.capset(header, bytes(24)) == 0
            return call()

        return netns.on_thread(drop_and_call)

    return call_without
