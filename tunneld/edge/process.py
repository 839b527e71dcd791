"""This process, as other processes see it."""

from __future__ import annotations

import ctypes
import os

PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)


def hide_memory() -> None:
    """From now on nobody but root can read our memory, and a crash leaves no core: there are keys in it.

    RLIMIT_CORE does not stop a core that is piped to a program (core(5)). What we read of ourselves in /proc stays
    readable; others of our own user find out less there, such as which ports we have. Raises OSError.
    """
    if _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), "prctl")
