"""The kernel by netlink: look, change, watch. The only module that imports pyroute2, so import it lazily (0.1 s).

Theory of operation. pyroute2 hands its netlink socket to `loop.create_datagram_endpoint`, which uvloop refuses for
AF_NETLINK. `_Route` keeps all of pyroute2 except that one call: a small reader takes the place of the transport and
works on both loops. It leans on internals (`setup_endpoint`, `local.transport`, `local.protocol`), so pyroute2 is
bound below its next minor version and the tests run on both loops.

A socket belongs for ever to the namespace it was created in, so one that is created on a thread inside a namespace
serves that namespace from the loop's own thread. pyroute2's `netns=` would fork the daemon instead.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.core import CoreDatagramProtocol
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from tunneld.edge import netns
from tunneld.netcfg.model import Address, KernelError, Link, Observed, Route
from tunneld.netcfg.operation import (
    ADDRESS_FLAGS,
    AddressAdd,
    AddressDel,
    BridgeAdd,
    BridgeDel,
    LinkLocalFlush,
    LinkSet,
    MulticastDel,
    Operation,
    PortJoin,
    PortLeave,
    RouteAdd,
    RouteDel,
)

IFF_UP = 1
RTMGRP_LINK = 1
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
RTN_MULTICAST = 5
RT_SCOPE_LINK = 253
TUN_MODES = {1: "tun", 2: "tap"}
ADDRGENMODES = ("eui64", "none", "stable_secret", "random")

_MESSAGES_PER_WAKE = 64
_MESSAGE_SIZE = 1 << 20  # a dump answer is at most 32 KiB today; a short read loses the rest of a message
_DUMP_TRIES = 5
_PYROUTE2_WORD = {"txqueuelen": "txqlen", "alias": "ifalias"}


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link as it is now, or `deleted`: gone from this namespace. `mtu` in bytes."""

    name: str
    index: int
    up: bool
    mtu: int
    deleted: bool = False


class Kernel:
    """One network namespace; make it with `Kernel.open`. `ipr` is pyroute2's AsyncIPRoute, fit for either loop."""

    def __init__(self, ipr: AsyncIPRoute, namespace: int | None) -> None:
        self.ipr = ipr
        self._namespace = namespace
        # One request at a time: hundreds in flight overflow the receive buffer, and pyroute2 then forgets who waits.
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, namespace: int | None = None) -> AsyncIterator[Kernel]:
        """The kernel of the namespace that the descriptor refers to (it may be closed at once), or of this one.

        Raises KernelError when the namespace cannot be entered.
        """
        held = None if namespace is None else os.dup(namespace)
        try:
            async with await _open(held) as ipr:
                yield cls(ipr, held)
        finally:
            if held is not None:
                os.close(held)

    async def observe(self) -> Observed:
        """Links, addresses, and the routes of the main table. Raises KernelError."""
        for _ in range(_DUMP_TRIES):
            try:
                async with self._turn:
                    return await self._observe()
            except NetlinkDumpInterrupted:
                continue  # somebody changed a table while it was read: the answer may lack a part
            except (NetlinkError, OSError) as error:
                raise KernelError(
                    f"cannot read the network configuration: {_reason(error)}", _errno(error)
                ) from error
        raise KernelError("cannot read the network configuration: it changes all the time", errno.EINTR)

    async def execute(self, operation: Operation) -> None:
        """Make one change. Raises KernelError with the `ip` command that it equals and the kernel's reason."""
        with refusals(operation.command):
            async with self._turn:
                await self._perform(operation)

    async def watch(self, receive_buffer: int = 1 << 20) -> AsyncGenerator[LinkChange, None]:
        """Every link as it is, then each change as it happens; endless. Close it with `contextlib.aclosing`.

        When the kernel had to drop messages (`receive_buffer` bytes were full), every link is reported again, and
        those that went are reported deleted. Raises KernelError.
        """
        known: dict[int, LinkChange] = {}
        while True:
            try:
                async with await _open(self._namespace, receive_buffer) as monitor:
                    # Bound before the dump, so nothing falls between; on a socket of its own, because pyroute2
                    # finds no free address for one that has carried requests.
                    await monitor.bind(groups=RTMGRP_LINK)
                    for change in await self._resync(known):
                        yield change
                    async with aclosing(_changes(monitor)) as changes:
                        async for change in changes:
                            if change.deleted:
                                known.pop(change.index, None)
                            else:
                                known[change.index] = change
                            yield change
            except (NetlinkError, OSError) as error:
                if _errno(error) != errno.ENOBUFS:
                    raise KernelError(f"cannot watch the links: {_reason(error)}", _errno(error)) from error

    async def _resync(self, known: dict[int, LinkChange]) -> list[LinkChange]:
        links = (await self.observe()).links
        now = {link.index: LinkChange(link.name, link.index, link.state == "up", link.mtu) for link in links}
        gone = [replace(old, deleted=True) for index, old in known.items() if index not in now]
        known.clear()
        known.update(now)
        return [*gone, *now.values()]

    async def _observe(self) -> Observed:
        messages = [message async for message in await self.ipr.link("dump")]
        names = {message["index"]: message.get("ifname") for message in messages}
        addresses = [message async for message in await self.ipr.addr("dump")]
        routes = [
            message
            for family in (socket.AF_INET, socket.AF_INET6)
            async for message in await self.ipr.route("dump", family=family, table=RT_TABLE_MAIN)
        ]
        return Observed(
            links=tuple(_link(message, names) for message in messages),
            # A link that appeared after the first dump has no name here, and is no business of ours yet.
            addresses=tuple(_address(message, names) for message in addresses if message["index"] in names),
            routes=tuple(_route(message, names) for message in routes),
        )

    async def _perform(self, operation: Operation) -> None:
        match operation:
            case LinkSet(attribute="addrgenmode", value=value):
                inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", ADDRGENMODES.index(str(value)))]}
                await self._set(operation.link, IFLA_AF_SPEC={"attrs": [("AF_INET6", inet6)]})
            case LinkSet(attribute=attribute, value=value):
                await self._set(operation.link, **{_PYROUTE2_WORD.get(attribute, attribute): value})
            case PortJoin(bridge=bridge):
                await self._set(operation.link, master=await self._index(bridge))
            case PortLeave():
                await self._set(operation.link, master=0)
            case BridgeAdd(link=link):
                await self.ipr.link("add", ifname=link, kind="bridge")
            case BridgeDel(link=link):
                await self.ipr.link("del", index=await self._index(link))
            case AddressAdd(address=address, flags=flags, protocol=protocol):
                tag = {"proto": protocol} if protocol else {}
                await self._address("add", operation.link, address, flags=flags, **tag)
            case AddressDel(address=address):
                await self._address("del", operation.link, address)
            case LinkLocalFlush(link=link):
                await self._flush_link_local(link)
            case MulticastDel(link=link):
                where = {"table": RT_TABLE_LOCAL, "type": RTN_MULTICAST, "oif": await self._index(link)}
                await self.ipr.route("del", dst="ff00::/8", **where)
            case RouteAdd(destination=destination, protocol=protocol):
                await self._route("add", operation.link, destination, protocol)
            case RouteDel(destination=destination, protocol=protocol):
                await self._route("del", operation.link, destination, protocol)

    async def _index(self, link: str) -> int:
        (message,) = await self.ipr.link("get", ifname=link)
        return int(message["index"])

    async def _set(self, link: str, **attributes: Any) -> None:
        await self.ipr.link("set", index=await self._index(link), **attributes)

    async def _address(self, command: str, link: str, address: Any, **attributes: Any) -> None:
        index = await self._index(link)
        await self.ipr.addr(
            command, index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **attributes
        )

    async def _flush_link_local(self, link: str) -> None:
        index = await self._index(link)
        dump = await self.ipr.addr("dump", family=socket.AF_INET6, index=index)
        for message in [message async for message in dump]:
            if message["scope"] == RT_SCOPE_LINK and message["index"] == index:
                await self.ipr.addr(
                    "del", index=index, address=message.get("address"), prefixlen=message["prefixlen"]
                )

    async def _route(self, command: str, link: str, destination: Any, protocol: int) -> None:
        await self.ipr.route(command, dst=str(destination), oif=await self._index(link), proto=protocol)


@contextmanager
def refusals(command: str) -> Iterator[None]:
    """What the kernel refuses in the body becomes a KernelError that names the `ip` command it equals."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        raise KernelError(f"{command}: {_reason(error)}", _errno(error)) from error


class _Route(AsyncIPRoute):  # type: ignore[misc]
    """pyroute2's AsyncIPRoute on either loop, its socket created inside `namespace`."""

    def __init__(self, namespace: int | None, receive_buffer: int) -> None:
        super().__init__(ext_ack=True, strict_check=True, rcvbuf=receive_buffer)
        self._namespace = namespace

    def setup_socket(self) -> socket.socket:
        made: socket.socket = netns.call_in(self._namespace, super().setup_socket)
        return made

    async def setup_endpoint(self) -> None:
        if getattr(self.local, "transport", None) is not None:
            return
        self.socket.setblocking(False)
        protocol = CoreDatagramProtocol(self.connection_lost, self.enqueue, self._error_event, self.status)
        self.local.protocol = protocol
        self.local.transport = _Reader(asyncio.get_running_loop(), self.socket, protocol)


class _Reader:
    """Where pyroute2 expects a datagram transport: feeds what the socket receives to `protocol`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._open = True
        loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_MESSAGES_PER_WAKE):
            try:
                data = self._sock.recv(_MESSAGE_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, None)

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._protocol.connection_lost(None)

    close = abort


async def _open(namespace: int | None, receive_buffer: int = 1 << 20) -> _Route:
    route = _Route(namespace, receive_buffer)
    try:
        await route.setup_endpoint()
    except OSError as error:
        remedy = "; run as root, or with CAP_SYS_ADMIN" if error.errno == errno.EPERM else ""
        raise KernelError(f"cannot open a netlink socket: {error.strerror}{remedy}", error.errno or 0) from error
    return route


async def _changes(monitor: _Route) -> AsyncGenerator[LinkChange, None]:
    while True:
        async for message in monitor.get():
            event = message.get("event")
            # A bridge sends RTM_DELLINK of family AF_BRIDGE when a port leaves: the link itself lives on.
            if event in ("RTM_NEWLINK", "RTM_DELLINK") and message["family"] == socket.AF_UNSPEC:
                up = bool(message["flags"] & IFF_UP)
                deleted = event == "RTM_DELLINK"
                yield LinkChange(message.get("ifname"), message["index"], up, message.get("mtu"), deleted=deleted)


def _link(message: Any, names: dict[int, str]) -> Link:
    kind = message.get(("linkinfo", "kind")) or ""
    data = message.get(("linkinfo", "data")) if kind == "tun" else None
    generated = message.get(("af_spec", "af_inet6", "inet6_addr_gen_mode"))  # None where IPv6 is off
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        kind=kind,
        mtu=message.get("mtu"),
        txqueuelen=message.get("txqlen") or 0,
        address=message.get("address") or "",
        state="up" if message["flags"] & IFF_UP else "down",
        mode=TUN_MODES.get(data.get("IFLA_TUN_TYPE"), "") if data else "",
        persistent=bool(data and data.get("IFLA_TUN_PERSIST")),
        master=names.get(message.get("master"), ""),
        alias=message.get("ifalias") or "",
        addrgenmode="" if generated is None else ADDRGENMODES[generated],
    )


def _address(message: Any, names: dict[int, str]) -> Address:
    # IFA_ADDRESS is the peer on a point-to-point address, and IFA_LOCAL then is ours.
    reaches, local, length = message.get("address"), message.get("local"), message["prefixlen"]
    return Address(
        link=names[message["index"]],
        address=ip_interface(f"{local or reaches}/{length}"),
        network=ip_network(f"{reaches or local}/{length}", strict=False),
        protocol=message.get("proto") or 0,
        flags=(message.get("flags") or 0) & sum(ADDRESS_FLAGS),
    )


def _route(message: Any, names: dict[int, str]) -> Route:
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    return Route(
        destination=ip_network(f"{message.get('dst') or anywhere}/{message['dst_len']}"),
        link=names.get(message.get("oif"), ""),
        gateway=message.get("gateway") or "",
        metric=message.get("priority") or 0,
        protocol=message["proto"],
    )


def _errno(error: NetlinkError | OSError) -> int:
    return int((error.code if isinstance(error, NetlinkError) else error.errno) or 0)


def _reason(error: NetlinkError | OSError) -> str:
    code = _errno(error)
    said = str(error.args[1]) if len(error.args) > 1 else os.strerror(code)
    return f"{said}; run as root, or with CAP_NET_ADMIN" if code == errno.EPERM else said
