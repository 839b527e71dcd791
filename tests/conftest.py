"""The whole run lives in namespaces of its own; every async test runs on both loops unless it says otherwise."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop
from hypothesis import settings

from tunneld.lab import sandbox

# A run repeats the last one; a slow machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

REQUIRE_ALL = os.environ.get("TUNNELD_REQUIRE_ALL") == "1"

# At import, while the process still has one thread: see sandbox.enter.
try:
    MODE = sandbox.enter()
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
