"""The messages of the control channel, which travel sealed: HELLO, PROBE, ECHO, GOODBYE.

A body is `u16 type | u16 length | value`, repeated, big-endian; the zeros that pad it read as messages of type
0. Types that are not known are skipped and counted, so that later versions can say more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.profile import MODES, Mode

Network = IPv4Network | IPv6Network

HEADER: Final = struct.Struct("!HH")
PADDING_TYPE: Final = 0
HELLO_TYPE: Final = 1
PROBE_TYPE: Final = 2
ECHO_TYPE: Final = 3
GOODBYE_TYPE: Final = 4

# HELLO:
#   boot epoch   8   drawn at random when the daemon starts
#   MTU          2   of the device, in bytes
#   mode         1   0 tun, 1 tap
#   flags        1   bit 0: there are more prefixes than are listed; the rest is 0 and ignored
# then for each prefix that the sender routes to the receiver:
#   family       1   4 or 6
#   length       1   in bits
#   address          as many bytes as hold that many bits; what lies behind the prefix is 0
HELLO: Final = struct.Struct("!8sHBB")
EPOCH_BYTES: Final = 8
FLAG_MORE: Final = 1

# PROBE: the identifier, then zeros up to the size that is to be probed, at least as many as make it no shorter
# than its ECHO.
PROBE: Final = struct.Struct("!I2x")
# ECHO: the identifier, and the length of the PROBE's value.
ECHO: Final = struct.Struct("!IH")

# A body comes in one message of at most 65,535 bytes; nobody needs more than a few messages in it.
MOST_MESSAGES: Final = 16
# 64 IPv6 prefixes are 1,152 bytes, which fit every path with the rest of HELLO.
MOST_PREFIXES: Final = 64

_FAMILIES: Final[dict[int, tuple[type[IPv4Network] | type[IPv6Network], int]]] = {
    4: (IPv4Network, 4),
    6: (IPv6Network, 16),
}

assert PROBE.size >= ECHO.size


@dataclass(frozen=True, slots=True)
class Hello:
    """What both ends must agree on, as the sender sees it. `mtu` in bytes.

    `epoch` is 8 bytes that change with every start of the daemon. `allowed_ips` are the prefixes that the sender
    routes to the receiver; `complete` says whether they are all of them.
    """

    epoch: bytes
    mtu: int
    mode: Mode
    allowed_ips: tuple[Network, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Probe:
    """A question that the receiver is to echo. `size` is the length of its value in bytes, at least 6."""

    identifier: int
    size: int = PROBE.size


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer to a Probe, with what arrived of it."""

    identifier: int
    size: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender shuts down: drop the session, and do not call until there is something to say."""


ControlMessage = Hello | Probe | Echo | Goodbye


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting on which the two ends do not agree. `sentence` tells the operator what to do."""

    field: str
    sentence: str


def encode(messages: Iterable[ControlMessage]) -> bytes:
    """The body that holds `messages`. A Hello lists at most 64 prefixes and says so if there are more."""
    parts = []
    for message in messages:
        kind, value = _value(message)
        parts += [HEADER.pack(kind, len(value)), value]
    return b"".join(parts)


def decode_untrusted(body: Buffer) -> tuple[list[ControlMessage], list[Reason]]:
    """The messages in `body`, at most 16, and why others were left out.

    A cut or oversized body keeps the messages before the fault; a malformed message spoils none but itself.
    """
    messages: list[ControlMessage] = []
    faults: list[Reason] = []
    view = memoryview(body)
    at, end = 0, len(view)
    while end - at >= HEADER.size:
        kind, length = HEADER.unpack_from(view, at)
        at += HEADER.size
        if kind == PADDING_TYPE:
            at += length
            continue
        if length > end - at:
            return messages, [*faults, Reason.TRUNCATED]
        if len(messages) + len(faults) == MOST_MESSAGES:
            return messages, [*faults, Reason.OVERSIZED]
        try:
            messages.append(_message_untrusted(kind, bytes(view[at : at + length])))
        except BadPacket as bad:
            faults.append(bad.reason)
        at += length
    return messages, faults


def compare(ours: Hello, theirs: Hello) -> list[Difference]:
    """What the operator has to put right, as seen from our end; empty if the two ends fit together.

    Of allowed_ips the same prefix at both ends is a fault: a packet for an unused address in it would go to and
    fro. Nested prefixes are not, the longer one decides; nor is /0 at both ends, under a routing protocol.
    """
    differences = []
    if ours.mode != theirs.mode:
        text = f'mode is "{ours.mode}" here and "{theirs.mode}" at the peer; set both alike'
        differences.append(Difference("mode", text))
    if ours.mtu != theirs.mtu:
        text = f"mtu is {ours.mtu} here and {theirs.mtu} at the peer; set both to {min(ours.mtu, theirs.mtu)}"
        differences.append(Difference("mtu", text))
    both = [network for network in ours.allowed_ips if network.prefixlen and network in theirs.allowed_ips]
    if both:
        listed = ", ".join(map(str, both[:3])) + (f" and {len(both) - 3} more" if len(both) > 3 else "")
        text = f"allowed_ips has {listed} at both ends, each for the other; remove it where the network is"
        differences.append(Difference("allowed_ips", text))
    return differences


def _value(message: ControlMessage) -> tuple[int, bytes]:
    if isinstance(message, Probe):
        return PROBE_TYPE, PROBE.pack(message.identifier).ljust(message.size, b"\0")
    if isinstance(message, Echo):
        return ECHO_TYPE, ECHO.pack(message.identifier, message.size)
    if isinstance(message, Goodbye):
        return GOODBYE_TYPE, b""
    listed = message.allowed_ips[:MOST_PREFIXES]
    more = not message.complete or len(listed) < len(message.allowed_ips)
    head = HELLO.pack(message.epoch, message.mtu, MODES.index(message.mode), FLAG_MORE if more else 0)
    return HELLO_TYPE, head + b"".join(map(_prefix, listed))


def _prefix(network: Network) -> bytes:
    used = (network.prefixlen + 7) // 8
    return bytes((network.version, network.prefixlen)) + network.network_address.packed[:used]


def _message_untrusted(kind: int, value: bytes) -> ControlMessage:
    """Raises BadPacket: MALFORMED, OVERSIZED for too many prefixes, or UNKNOWN_CONTROL."""
    if kind == HELLO_TYPE:
        return _hello_untrusted(value)
    if kind == PROBE_TYPE and len(value) >= PROBE.size:
        (identifier,) = PROBE.unpack_from(value)
        return Probe(identifier, len(value))
    if kind == ECHO_TYPE and len(value) >= ECHO.size:
        return Echo(*ECHO.unpack_from(value))
    if kind == GOODBYE_TYPE:
        return Goodbye()
    raise BadPacket(Reason.MALFORMED if kind in (PROBE_TYPE, ECHO_TYPE) else Reason.UNKNOWN_CONTROL)


def _hello_untrusted(value: bytes) -> Hello:
    if len(value) < HELLO.size:
        raise BadPacket(Reason.MALFORMED)
    epoch, mtu, mode, flags = HELLO.unpack_from(value)
    if mode >= len(MODES):
        raise BadPacket(Reason.MALFORMED)
    networks: list[Network] = []
    at = HELLO.size
    while at < len(value):
        if len(networks) == MOST_PREFIXES:
            raise BadPacket(Reason.OVERSIZED)
        network, at = _prefix_untrusted(value, at)
        networks.append(network)
    return Hello(epoch, mtu, MODES[mode], tuple(networks), not flags & FLAG_MORE)


def _prefix_untrusted(value: bytes, at: int) -> tuple[Network, int]:
    """The prefix that begins at `at`, and where the next one begins. Raises BadPacket(MALFORMED)."""
    family, length = value[at], value[at + 1] if at + 1 < len(value) else 0xFF
    if family not in _FAMILIES:
        raise BadPacket(Reason.MALFORMED)
    network, width = _FAMILIES[family]
    used = (length + 7) // 8
    end = at + 2 + used
    if end > len(value):
        raise BadPacket(Reason.MALFORMED)
    # The class refuses a length beyond the address, and bits behind the prefix.
    try:
        return network((value[at + 2 : end].ljust(width, b"\0"), length)), end
    except ValueError as error:
        raise BadPacket(Reason.MALFORMED) from error
