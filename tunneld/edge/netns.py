"""Network namespaces: run one call in another namespace, on a thread of its own.

The loop's thread never changes namespace: a one-off thread enters, calls, and ends, so a socket or a device
can be opened there and used here (setns(2), network_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
NAMED = "/run/netns"

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2) the calling thread. Raises OSError."""
    if _libc.unshare(flags) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), "unshare")


def setns(fd: int, flags: int = CLONE_NEWNET) -> None:
    """setns(2) the calling thread. Raises OSError."""
    if _libc.setns(fd, flags) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), "setns")


def on_thread(call: Callable[[], T]) -> T:
    """`call()` on a thread that ends with it; its result or its exception comes back here."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def call_in(namespace: int | None, call: Callable[[], T]) -> T:
    """`call()` inside the network namespace that the descriptor `namespace` refers to; None is this one.

    Raises what `call` raises, and OSError when the namespace cannot be entered (EPERM: CAP_SYS_ADMIN is missing).
    """
    if namespace is None:
        return call()

    def enter() -> T:
        setns(namespace)
        return call()

    return on_thread(enter)


def open_named(name: str) -> int:
    """A descriptor of the namespace that `ip netns add NAME` made, or of a path such as /proc/PID/ns/net.

    The caller closes it. Raises OSError.
    """
    return os.open(name if "/" in name else f"{NAMED}/{name}", os.O_RDONLY | os.O_CLOEXEC)


def new() -> int:
    """A descriptor of a fresh, anonymous namespace: it vanishes when nothing holds it any more. Raises OSError."""

    def make() -> int:
        unshare(CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return on_thread(make)
