"""Socket addresses: names resolved without blocking the loop, one form for an IPv4 address on any socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from ipaddress import IPv6Address, ip_address

from tunneld.config import Endpoint
from tunneld.proto.errors import LinkDown
from tunneld.proto.source import Address

RESOLVE_TIMEOUT = 5.0


async def resolve(endpoint: Endpoint) -> list[Address]:
    """The addresses of `endpoint` in the resolver's order of preference; never empty.

    Raises LinkDown when the name has none, or when the resolver says nothing for 5 s. A thread of its own
    asks, and nobody waits for it at exit: getaddrinfo(3) has no deadline and cannot be cancelled.
    """
    try:
        ip_address(endpoint.host)
    except ValueError:
        pass
    else:
        return _lookup(endpoint)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def deliver(addresses: list[Address] | None, error: LinkDown | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses or [])

    def ask() -> None:
        addresses, error = None, None
        try:
            addresses = _lookup(endpoint)
        except LinkDown as down:
            error = down
        try:
            loop.call_soon_threadsafe(deliver, addresses, error)
        except RuntimeError:
            return  # the loop was closed meanwhile: nobody asks any more

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            return await answer
    except TimeoutError:
        raise LinkDown(f"the resolver gave no answer for {endpoint.host} in {RESOLVE_TIMEOUT:.0f} s") from None


def _lookup(endpoint: Endpoint) -> list[Address]:
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # EMFILE too: Python loads its codec of names at the first call
        detail = error.strerror if isinstance(error, OSError) else "not a host name"
        raise LinkDown(f"cannot resolve {endpoint.host}: {detail}") from None
    return [normalise(info[4]) for info in found if info[0] in (socket.AF_INET, socket.AF_INET6)]


def family_of(address: Address) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def normalise(address: tuple[object, ...]) -> Address:
    """The address with an IPv4-mapped host (::ffff:192.0.2.1) written as IPv4."""
    host, port = str(address[0]), int(str(address[1]))
    if ":" not in host:
        return (host, port)
    plain, _, _scope = host.partition("%")
    mapped = IPv6Address(plain).ipv4_mapped
    if mapped is not None:
        return (str(mapped), port)
    flow, scope = (int(str(part)) for part in address[2:4])
    return (plain, port, flow, scope)


def for_family(address: Address, family: socket.AddressFamily) -> Address:
    """The address as a socket of `family` names it. Raises LinkDown for IPv6 from an IPv4 socket."""
    if family == socket.AF_INET6 and ":" not in address[0]:
        return (f"::ffff:{address[0]}", address[1], 0, 0)
    if family == socket.AF_INET and ":" in address[0]:
        raise LinkDown(f'{text(address)} is IPv6, but we listen on IPv4 only; write listen = "[::]:PORT"')
    return address


def text(address: Address) -> str:
    """HOST:PORT, with brackets and scope where IPv6 wants them."""
    normal = normalise(address)
    if len(normal) == 2:
        return f"{normal[0]}:{normal[1]}"
    scope = f"%{normal[3]}" if normal[3] else ""
    return f"[{normal[0]}{scope}]:{normal[1]}"


def said(error: OSError) -> str:
    """The error in the system's words, without number and brackets."""
    # Not `error.strerror`: asyncio writes its own words over the system's there.
    return os.strerror(error.errno) if error.errno else str(error)
