"""/dev/net/tun: attach to a TUN or TAP device, make and remove persistent ones, and say why when it does not work.

Everything here acts in the network namespace of the calling thread. Kernel side: drivers/net/tun.c.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import grp
import os
import pwd
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tunneld.edge import ifinfo
from tunneld.proto.errors import DeviceError

TUN_PATH = "/dev/net/tun"

# <linux/if_tun.h>, with the _IOW of asm-generic (x86, ARM, RISC-V, s390; not MIPS, PowerPC, SPARC).
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
TUNSETGROUP = 0x400454CE
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_PERSIST = 0x0800
IFF_NO_PI = 0x1000
IFF_TUN_EXCL = 0x8000
IFREQ = struct.Struct("16sH22x")  # struct ifreq: name, flags

TYPES = {"tun": IFF_TUN, "tap": IFF_TAP}
NAME_MAX = 15  # bytes: IFNAMSIZ with its zero


def name_fault(name: str) -> str | None:
    """What is wrong with `name` as the name of a device; None when nothing is."""
    for character in name:
        # The kernel forbids these too, apart from "%", which it takes as a template ("tun%d").
        if character in "/:%" or not character.isprintable() or character.isspace():
            return f"a device name has no {character!r}"
    if not 0 < len(name.encode()) <= NAME_MAX:
        return f"a device name has 1 to {NAME_MAX} bytes"
    if name in (".", ".."):
        return 'a device cannot be called "." or ".."'
    return None


def attach(name: str, mode: str, extra: int = 0) -> int:
    """A non-blocking descriptor of the device `name`, made if it is not there; `mode` is "tun" or "tap".

    No offloads: what is read and written is plain packets. `extra` are further IFF_ flags. The caller closes the
    descriptor; a device that is not persistent goes with it. Raises DeviceError.
    """
    if fault := name_fault(name):
        raise DeviceError(f"{name!r}: {fault}")
    fd = _open()
    try:
        fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), TYPES[mode] | IFF_NO_PI | extra))
        # A persistent device keeps the offloads that its last holder asked for: it would hand us packets of 64 KiB.
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    except OSError as error:
        os.close(fd)
        raise DeviceError(f"{name}: {_cause(name, mode, extra, error)}") from error
    return fd


def is_persistent(fd: int) -> bool:
    """Whether the attached device stays when `fd` is closed. Raises OSError (EBADFD: the device is gone)."""
    return bool(IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))[1] & IFF_PERSIST)


def set_persistent(fd: int, stays: bool) -> None:
    """Decide whether the attached device stays when `fd` is closed. Raises OSError (EBADFD: the device is gone)."""
    fcntl.ioctl(fd, TUNSETPERSIST, int(stays))


def add(name: str, mode: str, owner: int | None = None, group: int | None = None) -> None:
    """Make a persistent device that the uid `owner` and members of the gid `group` may attach to.

    Raises DeviceError, and then nothing was made.
    """
    fd = attach(name, mode, IFF_TUN_EXCL)
    try:
        for request, number, what in ((TUNSETOWNER, owner, "user"), (TUNSETGROUP, group, "group")):
            if number is not None:
                _give(fd, request, name, number, what)
        set_persistent(fd, True)
    finally:
        os.close(fd)


def delete(name: str) -> ifinfo.Interface:
    """Remove a persistent device that nothing is attached to; returns what it was. Raises DeviceError."""
    found = _lookup(name)
    if found is None:
        raise DeviceError(f"{name}: there is no such device")
    if found.mode is None:
        raise DeviceError(f"{name}: {_foreign(found)}; tunneld does not remove it")
    if not found.persistent:
        raise DeviceError(f"{name}: is not persistent: it goes with its process{_held_by(name)}")
    fd = attach(name, found.mode, IFF_MULTI_QUEUE if found.multi_queue else 0)
    try:
        set_persistent(fd, False)
    finally:
        os.close(fd)
    return found


def _open() -> int:
    try:
        return os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = {
            errno.ENOENT: "load the driver: modprobe tun (in a container: --device /dev/net/tun)",
            errno.ENODEV: "load the driver: modprobe tun",
            errno.ENXIO: "load the driver: modprobe tun",
            errno.EACCES: f"its mode forbids it: chmod 0666 {TUN_PATH}",
            errno.EPERM: f"the unit or container forbids it: DeviceAllow={TUN_PATH} rw, or --device {TUN_PATH}",
        }.get(error.errno or 0, "free some resources")
        raise DeviceError(f"cannot open {TUN_PATH}: {error.strerror}; {remedy}") from error


def _give(fd: int, request: int, name: str, number: int, what: str) -> None:
    try:
        fcntl.ioctl(fd, request, ctypes.c_int(number).value)  # ioctl() takes a C int, an id has all 32 bits
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise DeviceError(
                f"{name}: {what} {number} does not exist in this user namespace; map it, or leave it out"
            ) from error
        raise DeviceError(
            f"{name}: cannot be given to {what} {number}: {error.strerror}; run this as root"
        ) from error


def _lookup(name: str) -> ifinfo.Interface | None:
    try:
        return ifinfo.lookup(name)
    except OSError as error:
        raise DeviceError(f"{name}: cannot ask the kernel about it: {error.strerror}; allow AF_NETLINK") from error


def _cause(name: str, mode: str, extra: int, error: OSError) -> str:
    """Why TUNSETIFF failed: the kernel says EINVAL, EBUSY or EPERM, the device itself says the rest."""
    found = _lookup(name)
    if found is None:
        if error.errno == errno.EPERM:
            return (
                "making a device needs CAP_NET_ADMIN; run as root or by systemd, or once as root: "
                f"tunneld device add {name} --mode {mode} --user {_name(os.geteuid(), 'user')}"
            )
        return f"the kernel does not make this device: {error.strerror}"
    if found.mode is None:
        return f"{_foreign(found)}; choose another name"
    if extra & IFF_TUN_EXCL:
        return f"exists already, as {_article(found.mode)} device; remove it first: tunneld device del {name}"
    if found.mode != mode:
        return f'is {_article(found.mode)} device, not {_article(mode)}; use mode "{found.mode}" or another name'
    if error.errno == errno.EPERM:
        return f"{_owned(found)}, and we are {_user(os.geteuid())} without CAP_NET_ADMIN; run as its owner or as root"
    if error.errno == errno.EBUSY:
        return f"is busy{_held_by(name)}; stop that process or choose another name"
    if found.multi_queue and not extra & IFF_MULTI_QUEUE:
        return f"is a multi-queue device; make it with one queue: tunneld device add {name} --mode {mode}"
    return f"cannot attach: {error.strerror}"


def _foreign(found: ifinfo.Interface) -> str:
    return f"exists and is no TUN or TAP device ({found.kind or 'hardware'})"


def _article(mode: str) -> str:
    return f"a {mode.upper()}"


def _owned(found: ifinfo.Interface) -> str:
    owners = []
    if found.owner is not None:
        owners.append(_user(found.owner))
    if found.group is not None:
        owners.append(f"group {_name(found.group, 'group')} (gid {found.group})")
    return "belongs to " + " and ".join(owners) if owners else "has no owner"


def _user(uid: int) -> str:
    return f"user {_name(uid, 'user')} (uid {uid})"


def _name(number: int, kind: str) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
    return str(number)


def _held_by(name: str) -> str:
    """ " (pid 812, openvpn)" and so on for every holder that we may see, else ""."""
    found = sorted(holders(name))
    return f" ({'; '.join(found)})" if found else ""


def holders(name: str) -> Iterator[str]:
    """The processes that hold the device `name`, as "pid 812, openvpn"; those that we may see, in any namespace."""
    line = f"\niff:\t{name}\n"
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look into
            process = Path("/proc", pid)
            if any(line in _fdinfo(process, fd) for fd in os.listdir(process / "fd")):
                yield f"pid {pid}, {(process / 'comm').read_text().strip()}"


def _fdinfo(process: Path, fd: str) -> str:
    with suppress(OSError):
        if os.readlink(process / "fd" / fd) == TUN_PATH:
            return (process / "fdinfo" / fd).read_text()
    return ""
