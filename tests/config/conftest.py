from __future__ import annotations

import ctypes
import struct

import pytest

from tunneld.edge import netns

LINUX_CAPABILITY_VERSION_3 = 0x20080522


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
