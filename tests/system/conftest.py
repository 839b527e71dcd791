"""Two hosts of the lab, and on each a real daemon.

    left eth0 192.0.2.1 ──────────── 192.0.2.2 eth0 right      outside
    left t0    10.9.0.1 ============ 10.9.0.2  t0   right      inside, through the tunnel called "t"

What `ip` of iproute2 says of a host is the oracle for what a daemon has left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tunneld.lab import network, topology
from tunneld.lab.child import Child
from tunneld.lab.daemon import Daemon
from tunneld.lab.host import Completed, Host
from tunneld.lab.ping import wait_reachable
from tunneld.lab.topology import Lab, Pair

PORT = 55555
NAME = "t"
LINK = "t0"
INSIDE = {"v4": ("10.9.0.1", "10.9.0.2"), "v6": ("fd09::1", "fd09::2")}
BACK_AGAIN = 3.0  # seconds in which traffic must pass again after a trouble is over
MS_BIND = 4096

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Setup:
    """What differs from test to test. `interface` holds further keys of [interface] on both ends."""

    transport: str = "udp"
    mode: str = "tun"
    outer: str = "v4"
    interface: dict[str, Any] = field(default_factory=dict)

    def texts(self, hosts: Pair) -> tuple[str, str]:
        """The files of left and right. Over TCP the right end connects; over UDP each knows the other."""
        return self.left(hosts), self.right(hosts)

    def left(self, hosts: Pair, port: int = PORT, **sections: dict[str, Any]) -> str:
        endpoint = {"endpoint": _at(_outside(hosts, "right", self.outer))} if self.transport == "udp" else {}
        return self._text(0, {"listen": f"[::]:{port}"}, {"name": "right", **endpoint}, sections)

    def right(self, hosts: Pair, endpoint: str | None = None, **sections: dict[str, Any]) -> str:
        listen = {"listen": f"[::]:{PORT}"} if self.transport == "udp" else {}
        endpoint = endpoint or _at(_outside(hosts, "left", self.outer))
        return self._text(1, listen, {"name": "left", "endpoint": endpoint}, sections)

    def _text(self, end: int, tunnel: dict[str, Any], peer: dict[str, Any], more: dict[str, dict[str, Any]]) -> str:
        # The neighbours remember a MAC address for up to a minute, and a new device has a new one.
        mac = {"mac": f"02:00:00:00:09:0{end + 1}"} if self.mode == "tap" else {}
        own = {
            "tunnel": {"protocol": "plain", "transport": self.transport, **tunnel},
            "interface": {
                "name": LINK,
                "mode": self.mode,
                "mtu": 1400,
                "addresses": inside(end),
                **mac,
                **self.interface,
            },
            "peer": peer,
        }
        return toml(**{name: own.get(name, {}) | more.get(name, {}) for name in (*own, *(more.keys() - own.keys()))})


def inside(end: int) -> list[str]:
    """The addresses of one end inside the tunnel, with their prefix lengths: 0 is left, 1 is right."""
    v6 = [f"{INSIDE['v6'][end]}/64"] if network.HAS_IPV6 else []
    return [f"{INSIDE['v4'][end]}/24", *v6]


def toml(**sections: dict[str, Any]) -> str:
    """A configuration file: JSON's way to write a value is one of TOML's."""
    lines = []
    for name, values in sections.items():
        lines.append("[[peer]]" if name == "peer" else f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


async def start(hosts: Pair, setup: Setup, options: Sequence[str] = ()) -> tuple[Daemon, Daemon]:
    """Both daemons, left and right, when packets pass."""
    left, right = (
        Daemon.start(host, text, name=NAME, options=options)
        for host, text in zip((hosts.left, hosts.right), setup.texts(hosts), strict=True)
    )
    await left.wait_ready()
    await right.wait_ready()
    await wait_reachable(hosts.left, INSIDE["v4"][1])
    return left, right


def spawn(host: Host, text: str, *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Child:
    """`tunneld run` on a file of `text`, behind the words of `prefix`: for starts that `Daemon` does not do."""
    config = host.run_dir / f"{NAME}.toml"
    config.write_text(text)
    config.chmod(0o600)
    return host.spawn([*prefix, sys.executable, "-m", "tunneld", "run", str(config)], name=NAME, env=env)


async def tunneld(host: Host, *words: str, timeout: float = 20.0) -> Completed:
    """`tunneld WORDS` in `host`, to its end."""
    return await host.run([sys.executable, "-m", "tunneld", *words], timeout=timeout)


async def status_when(
    daemon: Daemon, wanted: Callable[[dict[str, Any]], bool], timeout: float = 5.0
) -> dict[str, Any]:
    """The status of a running daemon, as soon as it is `wanted`. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            status = await daemon.status()
            if wanted(status):
                return status
            await asyncio.sleep(0.02)


async def kernel_of(host: Host) -> str:
    """All that `ip` says of a host, but for the clocks of its bridges."""
    looks = ("-d link", "-d addr", "route show table all", "-6 route show table all", "rule", "-6 rule")
    said = "\n".join([(await host.run(["ip", *look.split()])).output for look in looks])
    return re.sub(r"_timer +[0-9.]+", "_timer", said)


@contextlib.contextmanager
def mounted(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> Iterator[None]:
    """A mount that only this run and its children see. Raises OSError."""
    encoded = [text.encode() for text in (source, str(target), kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount", str(target))
    try:
        yield
    finally:
        _libc.umount2(str(target).encode(), 2)  # MNT_DETACH: a child may still have a file open


def complaints(log: str) -> list[str]:
    """The lines of a daemon's log that are errors."""
    return [line for line in log.splitlines() if " error " in line]


@pytest.fixture
async def lab(namespaces):
    async with Lab.open() as lab:
        yield lab


@pytest.fixture
async def hosts(lab):
    """Left and right on one cable."""
    return await topology.pair(lab)


@pytest.fixture
def iproute2():
    if shutil.which("ip") is None:
        missing("ip is not installed: apt-get install iproute2")


def _outside(hosts: Pair, side: str, family: str) -> str:
    address: str = getattr(hosts, f"{side}_{family}")
    return address


def _at(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
