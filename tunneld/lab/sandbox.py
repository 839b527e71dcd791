"""A private world for this process: own network and mount namespace, without root where the kernel allows it.

Call `enter` early, while the process still has one thread: a user namespace cannot be joined by more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from tunneld.edge import netns

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxUnavailableError(Exception):
    """This machine does not let us make namespaces. `str()` is one line with the cause and the remedy."""


def enter() -> str:
    """Move this process into namespaces of its own, with an empty /run and lo up; returns "root" or "userns".

    Raises SandboxUnavailableError; the process is then unchanged or should end.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        mode = _unshare(uid, gid)
        _mount(None, "/", None, MS_REC | MS_PRIVATE)
        _mount("tmpfs", "/run", "tmpfs", 0)
        lo_up()
    except OSError as error:
        raise SandboxUnavailableError(_remedy(error, uid)) from error
    return mode


def _unshare(uid: int, gid: int) -> str:
    flags = netns.CLONE_NEWNET | netns.CLONE_NEWNS
    if uid == 0:
        # A root without CAP_SYS_ADMIN, as in many containers, may still be allowed what every user is.
        with contextlib.suppress(PermissionError):
            netns.unshare(flags)
            return "root"
    netns.unshare(flags | netns.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return "userns"


def lo_up() -> None:
    """Set `lo` up in the namespace of the calling thread. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = (source and source.encode(), target.encode(), kind and kind.encode())
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), target)


def _remedy(error: OSError, uid: int) -> str:
    refused = f"this machine does not let us make namespaces: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return (
            f"{refused}; raise the limits: sudo sysctl user.max_user_namespaces=10000 user.max_net_namespaces=10000"
        )
    if uid == 0:
        return f"{refused}; in a container, start it with --cap-add SYS_ADMIN --cap-add NET_ADMIN"
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
        return f"{refused}; run as root, or: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return f"{refused}; run the same command as root"
