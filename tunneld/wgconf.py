"""The files of `wg` and `wg-quick`: read as those two read them, and written.

A file holds secrets, so it is read into a buffer that is wiped, and no secret of it ever becomes a `str`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple, TypeVar

from tunneld.config import fields
from tunneld.config.document import Faults
from tunneld.config.fields import Fault
from tunneld.config.model import Endpoint
from tunneld.keys import BadKey, PresharedKey, PrivateKey, PublicKey, Secret, decode, encode, read_all, wipe
from tunneld.proto.errors import ConfigErrors
from tunneld.text import nearest, quoted

T = TypeVar("T")
Network = IPv4Network | IPv6Network

LARGEST = 1 << 20  # bytes

HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown")
# Handed on as they stand.
OTHERS = ("DNS", "Table", "FwMark", "SaveConfig", *HOOKS)

_KEYS = {
    "[Interface]": ("PrivateKey", "ListenPort", "Address", "MTU", *OTHERS),
    "[Peer]": ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"),
}
_HEADERS = {header.lower(): header for header in _KEYS}
_SPELLINGS = {key.lower(): key for keys in _KEYS.values() for key in keys}
_HOMES = {key: header for header, keys in _KEYS.items() for key in keys}

_LINE = re.compile(rb"(?P<key>[^=#\n]*)(?:=[^\S\n]*(?P<value>[^#\n]*))?(?:#(?P<comment>[^\n]*))?\n?")
_NAMED = re.compile(r"(?:friendly_)?name\s*[=:]\s*(.+)", re.I)
# What the usual set-up scripts write in front of a name.
_BEGIN = re.compile(r"(?:begin_peer|begin|client|peer)[\s:]\s*", re.I)


class Setting(NamedTuple):
    """One of OTHERS, as it stands in `line`."""

    line: int
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Interface:
    """[Interface]. None is absent."""

    private_key: PrivateKey | None = field(default=None, hash=False)
    listen_port: int | None = None
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mtu: int | None = None
    others: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """[Peer]. `keepalive` in seconds, 0 for none; `name` is what a comment calls it."""

    public_key: PublicKey
    name: str | None = None
    preshared_key: PresharedKey | None = field(default=None, hash=False)
    allowed_ips: tuple[Network, ...] = ()
    endpoint: Endpoint | None = None
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class WgConf:
    """One file."""

    interface: Interface
    peers: tuple[Peer, ...]

    def clear(self) -> None:
        """Overwrite the secrets. The record may not be used afterwards."""
        for secret in (self.interface.private_key, *(peer.preshared_key for peer in self.peers)):
            if secret is not None:
                secret.clear()


def load(path: Path) -> WgConf:
    """The file at `path`; its secrets belong to the caller. Raises ConfigErrors with every fault that it has."""
    faults = Faults(path)
    content = bytearray(LARGEST + 1)
    try:
        # To open a pipe would otherwise wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigErrors([faults.error(0, "", "is not a regular file; give a file")])
            count = read_all(descriptor, content)
        finally:
            os.close(descriptor)
        if count > LARGEST:
            raise ConfigErrors([faults.error(0, "", f"larger than {LARGEST:,} bytes; is this a file of wg?")])
        with memoryview(content) as view, view[:count] as text:
            return parse(text, faults)
    except OSError as error:
        message = f"{error.strerror}; give a file such as /etc/wireguard/wg0.conf"
        raise ConfigErrors([faults.error(0, "", message)]) from None
    finally:
        wipe(content)


def parse(text: memoryview, faults: Faults) -> WgConf:
    """What `text` says. Raises ConfigErrors with every fault in it, beside those of `faults`."""
    sections = list(_sections(text, faults))
    interfaces = [section for section in sections if section.header == "[Interface]"]
    peers = [section for section in sections if section.header == "[Peer]"]
    for second in interfaces[1:]:
        faults.add(second.line, second.header, f"already opened in line {interfaces[0].line}; put its keys there")
    for found, header in ((interfaces, "[Interface]"), (peers, "[Peer]")):
        if not found:
            faults.add(0, "", f"has no {header} section; add it, or give another file")
    interface = _interface(interfaces[0], faults) if interfaces else Interface()
    known: dict[object, int] = {}
    read = [_peer(section, known, faults) for section in peers]
    conf = WgConf(interface, tuple(peer for peer in read if peer is not None))
    try:
        faults.raise_any()
    except ConfigErrors:
        conf.clear()
        raise
    return conf


def render(conf: WgConf) -> bytearray:
    """A file that says `conf`, but for its `others`. It holds the secrets: wipe it after use."""
    interface = conf.interface
    text = bytearray(b"[Interface]\n")
    _put_secret(text, "PrivateKey", interface.private_key)
    _put(text, "ListenPort", interface.listen_port)
    for address in interface.addresses:
        _put(text, "Address", address)
    _put(text, "MTU", interface.mtu)
    for peer in conf.peers:
        text += b"\n[Peer]\n"
        _put(text, "# Name", peer.name)
        _put(text, "PublicKey", peer.public_key)
        _put_secret(text, "PresharedKey", peer.preshared_key)
        _put(text, "AllowedIPs", ", ".join(map(str, peer.allowed_ips)) or None)
        _put(text, "Endpoint", peer.endpoint)
        _put(text, "PersistentKeepalive", peer.keepalive or None)
    return text


def _put(text: bytearray, key: str, value: object) -> None:
    if value is not None:
        text += f"{key} = {value}\n".encode()


def _put_secret(text: bytearray, key: str, secret: Secret | None) -> None:
    if secret is not None:
        text += key.encode() + b" = " + encode(secret.raw) + b"\n"


# --- lines


class _Line(NamedTuple):
    """`key = value # comment`; `value` is None without "="."""

    number: int
    key: str
    value: memoryview | None
    comment: str

    @property
    def text(self) -> str:
        """The value, of anything but a secret."""
        return str(self.value or b"", "utf-8", "replace").strip()


def _lines(text: memoryview) -> Iterator[_Line]:
    for number, match in enumerate(_LINE.finditer(text), 1):
        start, end = match.span("value")
        # As wg has it, blanks in a key mean nothing, nor does case.
        key = "".join(str(match["key"], "utf-8-sig", "replace").split()).lower()
        comment = str(match["comment"] or b"", "utf-8", "replace").strip("# \t\r")
        yield _Line(number, key, None if start < 0 else text[start:end], comment)


class _Section:
    """A header in `line`, the lines `key = value` below it, and what comments call it, the surest last."""

    def __init__(self, header: str, line: int, names: list[str]) -> None:
        self.header = header
        self.line = line
        self.names = names
        self._entries: list[_Line] = []

    @property
    def name(self) -> str | None:
        for name in reversed(self.names):
            try:
                return fields.peer_name(name)
            except Fault:
                continue
        return None

    def add(self, line: _Line, faults: Faults) -> None:
        """Take a line that has a key; a fault if there is no such key here."""
        key = _SPELLINGS.get(line.key)
        if key is None:
            near = _SPELLINGS.get(nearest(line.key, _SPELLINGS))
            hint = f"did you mean {near}?" if near else "remove the line"
            faults.add(line.number, _shown(line.key), f"unknown key; {hint}")
        elif _HOMES[key] != self.header:
            faults.add(line.number, key, f"has no place in {self.header}; move it below {_HOMES[key]}")
        else:
            self._entries.append(line._replace(key=key))

    def all(self, *keys: str) -> list[_Line]:
        return [entry for entry in self._entries if entry.key in keys]

    def one(self, key: str, parse: Callable[[_Line], T], faults: Faults) -> T | None:
        """The value of a key that may be there once; None when it is absent or faulty."""
        found = self.all(key)
        for line in found[1:]:
            faults.add(line.number, key, f"already set in line {found[0].number}; keep one of the two")
        return _parsed(found[0], parse, faults) if found else None

    def many(self, key: str, parse: Callable[[str], T], faults: Faults) -> dict[T, int]:
        """The values of a key that may be there often and holds lists, each with its line."""
        values: dict[T, int] = {}
        for line in self.all(key):
            for value in _parsed(line, lambda line: list(map(parse, _words(line.text))), faults) or ():
                values.setdefault(value, line.number)
        return values


def _sections(text: memoryview, faults: Faults) -> Iterator[_Section]:
    """The sections, each of which is filled when the next one comes."""
    section: _Section | None = None
    above = ""
    # The expression matches the empty end of the text as well, as a line that lets go of the comment above it.
    for line in _lines(text):
        header = _HEADERS.get(line.key) if line.value is None else None
        if header is not None:
            section = _Section(header, line.number, [_name(above), _name(line.comment)])
            yield section
        elif section is not None and _NAMED.fullmatch(above):
            section.names.append(_name(above))
        above = "" if line.key else line.comment
        if header is not None or (not line.key and line.value is None):
            continue
        if line.value is None:
            hint = "there are [Interface] and [Peer]" if line.key.startswith("[") else "write Key = value"
            faults.add(line.number, _shown(line.key), f"cannot be understood; {hint}")
        elif section is None:
            faults.add(line.number, _shown(line.key), "stands before the first section; move it below [Interface]")
        else:
            section.add(line, faults)


def _name(comment: str) -> str:
    """The name in a comment; what has "=" is more likely a line that somebody has switched off."""
    if named := _NAMED.fullmatch(comment):
        return named[1]
    return "" if "=" in comment else _BEGIN.sub("", comment, count=1)


def _shown(key: str) -> str:
    """What may be shown of an unknown word: a longer one, or one of more than letters, may be a part of a secret."""
    return quoted(key) if len(key) <= 20 and key.strip("[]").isalpha() else ""


# --- values


def _interface(section: _Section, faults: Faults) -> Interface:
    return Interface(
        private_key=section.one("PrivateKey", _private_key, faults),
        listen_port=section.one("ListenPort", _listen_port, faults) or None,
        addresses=tuple(section.many("Address", _address, faults)),
        mtu=section.one("MTU", lambda line: fields.mtu(_number(line.text)), faults),
        others=tuple(Setting(line.number, line.key, line.text) for line in section.all(*OTHERS)),
    )


def _peer(section: _Section, known: dict[object, int], faults: Faults) -> Peer | None:
    """None without a good public key. `known` holds the lines of the keys and prefixes of the peers before it."""
    if not section.all("PublicKey"):
        faults.add(section.line, section.header, "has no PublicKey; add it")
    public_key = section.one("PublicKey", lambda line: PublicKey.decode(line.text), faults)
    allowed_ips = section.many("AllowedIPs", _prefix, faults)
    if public_key is not None:
        _check_once("PublicKey", {public_key: section.all("PublicKey")[0].number}, known, faults)
    _check_once("AllowedIPs", allowed_ips, known, faults)
    preshared_key = section.one("PresharedKey", lambda line: PresharedKey(_secret(line)), faults)
    endpoint = section.one("Endpoint", lambda line: fields.endpoint(line.text), faults)
    keepalive = section.one("PersistentKeepalive", _keepalive, faults)
    if public_key is None:
        return None
    # Zeros are what wg has for none.
    given = preshared_key if preshared_key is not None and any(preshared_key.raw) else None
    return Peer(public_key, section.name, given, tuple(allowed_ips), endpoint, keepalive or 0)


def _check_once(key: str, values: Mapping[T, int], known: dict[object, int], faults: Faults) -> None:
    for value, line in values.items():
        if value in known:
            faults.add(line, key, f"{value} is in line {known[value]} already; keep it in one place")
        known.setdefault(value, line)


def _parsed(line: _Line, parse: Callable[[_Line], T], faults: Faults) -> T | None:
    try:
        return parse(line)
    except (Fault, BadKey) as fault:
        faults.add(line.number, line.key, str(fault))
        return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)


def _secret(line: _Line) -> bytearray:
    return decode(line.value or memoryview(b""))


def _private_key(line: _Line) -> PrivateKey:
    raw = _secret(line)
    if not any(raw):
        raise Fault("all-zero key; write what wg genkey prints")
    return PrivateKey(raw)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Fault(f"expected a whole number, got {quoted(text)}; write digits only")
    return int(text)


def _listen_port(line: _Line) -> int:
    """0 lets the kernel choose."""
    return 0 if line.text == "0" else fields.port_number(line.text)


def _keepalive(line: _Line) -> int:
    return 0 if line.text.lower() == "off" else fields.keepalive(_number(line.text))


def _address(word: str) -> IPv4Interface | IPv6Interface:
    return fields.address(_with_length(word))


def _prefix(word: str) -> Network:
    """As wg, which lets host bits pass and clears them."""
    ip, _, length = _with_length(word).partition("/")
    try:
        network = ip_network(f"{ip}/{length}", strict=False)
    except ValueError:
        network = None
    # A netmask or a scope is no prefix, whatever ipaddress says.
    if network is None or not (length.isascii() and length.isdigit()) or "%" in ip:
        raise Fault(f"{quoted(word)} is not a prefix; write for example 192.168.0.0/24")
    return network


def _with_length(word: str) -> str:
    """A bare address is one of its whole length."""
    try:
        return f"{word}/{ip_address(word).max_prefixlen}"
    except ValueError:
        return word
