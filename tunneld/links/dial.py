"""Connecting to the first of a peer's endpoints that answers."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

from tunneld.config import Endpoint
from tunneld.edge import address as addresses
from tunneld.edge import tcp
from tunneld.edge.tcp import TcpLink
from tunneld.proto.errors import LinkDown
from tunneld.proto.source import Address


class Dialler:
    """Connects to one of `endpoints`, in their order, from the address of `listener` where that can reach it."""

    def __init__(self, endpoints: Sequence[Endpoint], listener: socket.socket | None) -> None:
        self._endpoints = endpoints
        self._listener = listener
        self._known: dict[Endpoint, set[str]] = {}

    async def connect(self) -> TcpLink:
        """Names are resolved anew. Raises LinkDown with what the last endpoint said."""
        failure = LinkDown("no endpoint")
        for endpoint in self._endpoints:
            try:
                targets = await self._resolve(endpoint)
            except LinkDown as down:
                failure = down
                continue
            for target in targets:
                try:
                    return await tcp.connect(target, self._source_for(target))
                except LinkDown as down:
                    failure = down
        raise failure

    async def learn(self) -> None:
        """Resolve all names; what is known of one that does not resolve stays."""
        for endpoint in self._endpoints:
            with suppress(LinkDown):
                await self._resolve(endpoint)

    def knows(self, host: str) -> bool:
        """Whether `host`, numeric, is an address of one of the endpoints, as far as they were resolved."""
        return any(host in hosts for hosts in self._known.values())

    async def _resolve(self, endpoint: Endpoint) -> list[Address]:
        targets = await addresses.resolve(endpoint)
        self._known[endpoint] = {target[0] for target in targets}
        return targets

    def _source_for(self, target: Address) -> Address | None:
        """The address that we listen on, where it can reach `target`; any port."""
        if self._listener is None:
            return None
        local = self._listener.getsockname()
        ours, theirs = ip_address(local[0]), ip_address(target[0])
        if ours.is_unspecified or ours.version != theirs.version or ours.is_loopback != theirs.is_loopback:
            return None
        return (local[0], 0, *local[2:])
