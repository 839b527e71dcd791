"""What one value may be: each function takes a TOML value and returns the typed one, or raises Fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from tunneld.config.model import Endpoint
from tunneld.keys import BadKey, PublicKey
from tunneld.text import nearest, quoted

# A device takes MTU + 18 bytes of Ethernet and VLAN header; with 2 of length that still fits one UDP datagram.
MTU_LARGEST = 65_475
MTU_SMALLEST = 576
MTU_SMALLEST_IPV6 = 1280
MTU_RULE = f"must be {MTU_SMALLEST}..{MTU_LARGEST}, and {MTU_SMALLEST_IPV6} or more with IPv6"

_INTERFACE = re.compile(r"[A-Za-z0-9._-]+")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_KINDS = ((bool, "true or false"), ((int, float), "a number"), (str, "text"), (list, "a list"), (dict, "a section"))


class Fault(ValueError):
    """`str()` says what is wrong with the value and what to do."""


def text(value: object) -> str:
    if not isinstance(value, str):
        shown = (
            f'; write "{value}"' if isinstance(value, int) and not isinstance(value, bool) else "; put it in quotes"
        )
        raise Fault(f"expected text, got {_kind(value)}{shown}")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Fault(f"expected true or false, got {_shown(value)}; write it without quotes")
    return value


def number(value: object, low: int, high: int, rule: str = "") -> int:
    if isinstance(value, str):
        raise Fault(f"expected a number, got {quoted(value)}; write it without quotes")
    if isinstance(value, bool) or not isinstance(value, int):
        raise Fault(f"expected a whole number, got {_shown(value)}; write digits only")
    if not low <= value <= high:
        raise Fault(rule or f"must be {low}..{high}")
    return value


def mtu(value: object) -> int:
    return number(value, MTU_SMALLEST, MTU_LARGEST, MTU_RULE)


def txqueuelen(value: object) -> int:
    # The queue of the device is an array of this many pointers; 0 would drop everything.
    return number(value, 1, 65_535)


def keepalive(value: object) -> int:
    """Seconds, 0 for none; the range is that of `wg`."""
    return number(value, 0, 65_535, "must be 1..65535 seconds, or 0 for none")


def public_key(value: object) -> PublicKey:
    """The key of a peer. A fault shows one character of it at most: it may be the private one by mistake."""
    try:
        return PublicKey.decode(text(value))
    except BadKey as fault:
        raise Fault(f"{fault}; write what tunneld pubkey prints from the key of the peer") from None


def choice(*options: str) -> Callable[[object], str]:
    """A field that must be one of `options`."""

    def parse(value: object) -> str:
        word = text(value)
        if word not in options:
            known = " or ".join(f'"{option}"' for option in options)
            near = nearest(word, options)
            raise Fault(
                f"{quoted(word)} is not known; {f'did you mean {quoted(near)}?' if near else f'write {known}'}"
            )
        return word

    return parse


def transport(value: object) -> str:
    if value == "auto":
        raise Fault('this version cannot choose between transports; write "udp" or "tcp"')
    return choice("udp", "tcp")(value)


def interface_name(value: object) -> str:
    """A name that the kernel takes for a network interface, and takes as it stands."""
    name = text(value)
    if not name:
        raise Fault('is empty; write for example "tun0"')
    if len(name.encode(errors="replace")) > 15 or "/" in name or any(c.isspace() for c in name):
        raise Fault(f'{quoted(name)}: at most 15 characters, no "/" and no blank')
    if not _INTERFACE.fullmatch(name):
        raise Fault(f'{quoted(name)}: only ASCII letters, digits, ".", "-" and "_"')
    if name in (".", "..", "all", "default"):
        raise Fault(f'{quoted(name)} is reserved by the kernel; choose another, for example "tun0"')
    return name


def namespace(value: object) -> str:
    """The name of a namespace of `ip netns`, or an absolute path to one."""
    name = text(value)
    if not name or "\0" in name or name in (".", "..") or ("/" in name and not name.startswith("/")):
        raise Fault(f"{quoted(name)} is no namespace; write a name that `ip netns` lists, or a path from /")
    return name


def peer_name(value: object) -> str:
    name = text(value)
    if not name or len(name) > 64 or not name.isprintable() or name != name.strip():
        raise Fault(f"{quoted(name)}: 1 to 64 printable characters, no blank at the ends")
    return name


def mac(value: object) -> str:
    """The address of one Ethernet card, in lower case."""
    address = text(value).lower()
    if not _MAC.fullmatch(address):
        raise Fault(f'{quoted(address)} is not a MAC address; write for example "02:00:00:00:00:01"')
    if int(address[:2], 16) & 1:
        raise Fault(f"{address} is a group address; make the first byte even, for example 02")
    if not int(address.replace(":", ""), 16):
        raise Fault(f'{address} is no address; write for example "02:00:00:00:00:01"')
    return address


def listen(value: object) -> Endpoint:
    """Where to listen: numeric, so that it never depends on a name server."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise Fault(f'expected ADDRESS:PORT; write "[::]:{value}" for every address of this host')
    where = text(value)
    if where.startswith(":") or where.isdecimal():
        port = where.removeprefix(":")[:5]
        raise Fault(f'{quoted(where)} has no address; write "[::]:{port}" for every address of this host')
    endpoint = _host_port(where)
    address = _numeric(endpoint.host)
    if address is None:
        raise Fault(f"{quoted(endpoint.host)} is a name; write an address, for example [::]:{endpoint.port}")
    if address.is_multicast:
        raise Fault(f"{address} is a group address; write one of this host, or [::]:{endpoint.port}")
    return endpoint


def endpoint(value: object) -> Endpoint:
    """Where the peer listens; a name is looked up when it is needed, not here."""
    found = _host_port(text(value))
    address = _numeric(found.host)
    if address is not None and (address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"):
        raise Fault(f"{address} is not the address of one host; write that of the peer")
    return found


def host(value: str) -> str:
    """A numeric address without brackets, or a name that a resolver may be asked for."""
    if _numeric(value) is not None:
        return value
    if ":" in value:
        raise Fault(f"{quoted(value)} is not an IPv6 address")
    labels = value.removesuffix(".").split(".")
    if labels[-1].isdigit():
        raise Fault(f"{quoted(value)} is not an IPv4 address; write four numbers of 0..255")
    if len(value) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Fault(f"{quoted(value)} is neither an address nor a host name; write for example vpn.example.org")
    return value


def port_number(written: str) -> int:
    if not (written.isascii() and written.isdigit() and len(written) <= 5 and 1 <= int(written) <= 65_535):
        raise Fault(f"port {quoted(written)}: must be 1..65535")
    return int(written)


def address(value: object) -> IPv4Interface | IPv6Interface:
    """An address of this host with its prefix length, by the rules of a CIDR block."""
    written = text(value)
    ip, length = _split(written)
    try:
        found = ip_interface(f"{ip}/{length}")
    except ValueError:
        raise Fault(f'{quoted(written)} is not an address; write for example "192.168.0.1/24"') from None
    network = found.network
    if found.ip.is_multicast or found.ip.is_unspecified or found.ip.is_loopback:
        raise Fault(f'{written} cannot be the address of a host; write for example "192.168.0.1/24"')
    if network.prefixlen == 0:
        raise Fault(f"{written} calls the whole world a neighbour; write the length of its subnet, such as /24")
    if network.num_addresses > 2 and found.ip == network.network_address:
        raise Fault(f"{written} is the network address of its subnet; take another, such as {found.ip + 1}/{length}")
    if network.num_addresses > 2 and found.version == 4 and found.ip == network.broadcast_address:
        raise Fault(
            f"{written} is the broadcast address of its subnet; take another, such as {found.ip - 1}/{length}"
        )
    return found


def prefix(value: object) -> IPv4Network | IPv6Network:
    """A network with no host bits set."""
    written = text(value)
    ip, length = _split(written)
    try:
        network = ip_network(f"{ip}/{length}", strict=False)
        if str(network.network_address) != str(ip_address(ip)):
            whole = f"{ip}/{network.max_prefixlen}"
            raise Fault(f"{written} has host bits set; did you mean {network} or {whole}?")
    except Fault:
        raise
    except ValueError:
        raise Fault(f'{quoted(written)} is not a prefix; write for example "192.168.0.0/24"') from None
    return network


def _split(written: str) -> tuple[str, str]:
    ip, slash, length = written.partition("/")
    if not slash:
        parsed = _numeric(ip)
        if parsed is not None and "%" not in ip:
            raise Fault(f"{written} has no prefix length; write {ip}/{parsed.max_prefixlen} for that address alone")
    # ipaddress would take a netmask and a scope as well; a prefix length is what the kernel and `ip` show.
    if not (length.isascii() and length.isdigit()) or "%" in ip:
        return "", ""
    return ip, length


def _host_port(written: str) -> Endpoint:
    if written.startswith("["):
        inside, bracket, rest = written[1:].partition("]")
        if not bracket or not isinstance(_numeric(inside), IPv6Address) or (rest and not rest.startswith(":")):
            raise Fault(f"{quoted(written)}: write [ADDRESS]:PORT, for example [2001:db8::1]:55555")
        where, port = inside, rest[1:]
    else:
        where, _, port = written.rpartition(":") if ":" in written else (written, "", "")
        if ":" in where:
            raise Fault(f"{quoted(written)}: {_with_brackets(written, where, port)}")
        host(where)
    if not port:
        raise Fault(f"{quoted(written)} has no port; write {_joined(where, 55555)}")
    return Endpoint(where, port_number(port))


def _with_brackets(written: str, where: str, port: str) -> str:
    if isinstance(_numeric(where), IPv6Address) and port.isdigit():
        return f"write [{where}]:{port}"
    if isinstance(_numeric(written), IPv6Address):
        return f"write [{written}]:55555"
    return "write host:port, with an IPv6 address in brackets"


def _joined(where: str, port: int) -> str:
    return str(Endpoint(where or "vpn.example.org", port))


def _numeric(written: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(written)
    except ValueError:
        return None


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a date or time")
