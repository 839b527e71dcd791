"""From a file to a Config: the sections and keys there are, and those that only later versions have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tunneld.config import fields, file, keyfiles, rules
from tunneld.config.document import Document, Faults
from tunneld.config.model import (
    CIPHER_DEFAULT,
    CIPHERS,
    PROTOCOLS,
    Config,
    Endpoint,
    InterfaceConfig,
    NetworkConfig,
    PeerConfig,
    TunnelConfig,
)
from tunneld.config.table import Table
from tunneld.naming import NAME_RULE, is_name
from tunneld.text import nearest, quoted

# With every header they fit an Ethernet path under IPv6; a real WireGuard has the last.
MTU_DEFAULT = {"tun": 1400, "tap": 1380}
MTU_DEFAULT_WIREGUARD = 1420

# Seconds; most NATs and firewalls forget a silent UDP flow after 30 or more.
KEEPALIVE_DEFAULT = 25

_LATER = "this version cannot do that yet; remove the line"
_CLEAR = 'protocol = "plain" sends everything in clear, so this would not be used; remove the line'
_SESSIONLESS = 'protocol = "plain" has no sessions, so this would not be used; remove the line'
_KEYLESS = 'missing; write for example private_key_file = "office.key", and make that file with tunneld genkey'
_NAMELESS = 'missing; write for example name = "tun0"'
_PEER_NAMELESS = "missing; several peers are told apart by their names"
_NO_ADDRESS = "interface has no address; set addresses, or addresses = [] if it needs none"

_KEYS = {
    "tunnel": ("protocol", "transport", "listen", "cipher", "private_key_file"),
    "interface": ("name", "mode", "addresses", "mtu", "mac", "txqueuelen", "bridge", "persist", "netns", "on_loss"),
    "network": ("routes",),
    "peer": ("endpoint", "allowed_ips", "public_key", "preshared_key_file", "keepalive", "pin_endpoint"),
}
_HOMES = {key: "[[peer]]" if section == "peer" else f"[{section}]" for section, keys in _KEYS.items() for key in keys}
_NETWORK_LATER = (
    "forward",
    "masquerade",
    "default_route",
    "kill_switch",
    "dns",
    "table",
    "mark",
    "allow_lan",
    "drift",
)
_SECTIONS_LATER = ("bridge", "log", "metrics")


def load(path: Path, look_up: Callable[[Endpoint], None] | None = None, *, read_keys: bool = True) -> Config:
    """The configuration in `path`. Reads it and its key files, asks /proc what this process may do, changes nothing.

    `look_up` is called with each endpoint that is a name and raises OSError when nobody knows it. Without `read_keys`
    the secrets stay None: what needs none of them need not be allowed to read them. Raises ConfigErrors with every
    fault that the file has.
    """
    faults = Faults(path)
    if not is_name(path.stem):
        faults.add(0, "", f"its name is the tunnel's; use {NAME_RULE}, then .toml")
    document = Document(file.read(path, faults), faults)
    if not document.values:
        document.fault((), "empty: no [tunnel] section, no [interface] section; start from a sample in configs/")
        faults.raise_any()
    config, peers = _config(path, document, path.parent if read_keys else None)
    rules.check(config, peers, document, look_up)
    faults.raise_any()
    return replace(config, warnings=rules.warnings(config, document))


def _config(path: Path, document: Document, keys: Path | None) -> tuple[Config, tuple[PeerConfig, ...]]:
    """What the file says, with defaults in place of faulty values, and those of its peers that can be judged.

    `keys` is where the paths of key files start; None leaves them unread.
    """
    _check_sections(document)
    tunnel = _tunnel(document, keys)
    interface = _interface(document, tunnel)
    network = _network(document)
    peers = _peers(document, tunnel, keys)
    return Config(path.stem, path, tunnel, interface, network, peers or (PeerConfig(name="peer"),)), peers


def _check_sections(document: Document) -> None:
    for key, value in document.values.items():
        if key in _KEYS:
            continue
        section = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
        if not section:
            home = _HOMES.get(key, "its [section]")
            document.fault((key,), f"stands before the first section; move it below {home}", key=quoted(key))
        elif key in _SECTIONS_LATER:
            document.fault((key,), "this version cannot do that yet; remove the section", key=f"[{key}]")
        else:
            near = nearest(key, [*_KEYS, *_SECTIONS_LATER])
            document.excuse((near,))
            there = {"": "there are [tunnel], [interface], [network] and [[peer]]", "peer": "did you mean [[peer]]?"}
            hint = there.get(near, f"did you mean [{near}]?")
            document.fault((key,), f"unknown section; {hint}", key=f"[{key}]")


def _section(document: Document, name: str) -> Table:
    value = document.values.get(name, {})
    if isinstance(value, list) and value and isinstance(value[0], dict):
        document.fault((name, 0), f"write [{name}] with single brackets, once", key=f"[[{name}]]")
        return Table(document, (name, 0), value[0])
    if not isinstance(value, dict):
        document.fault((name,), f"expected a section; write [{name}] and its keys below it")
        return Table(document, (name,), {})
    return Table(document, (name,), value)


def _tunnel(document: Document, keys: Path | None) -> TunnelConfig:
    table = _section(document, "tunnel")
    if document.faulty("tunnel"):
        document.excuse(("tunnel", "protocol"))
        document.excuse(("tunnel", "listen"))
    protocol = table.take("protocol", fields.choice(*PROTOCOLS), PROTOCOLS[0])
    transport = table.take("transport", fields.transport, "udp")
    listen = table.take("listen", fields.listen, None)
    if protocol == "plain":
        table.close({**dict.fromkeys(("cipher", "private_key", "private_key_file"), _CLEAR), "netns": _LATER}, _HOMES)
        return TunnelConfig(protocol, transport, listen)
    cipher = table.take("cipher", fields.choice(*CIPHERS), CIPHER_DEFAULT)
    private = table.take("private_key_file", keyfiles.private_key(keys), None)
    table.close({"private_key": _in_a_file("private_key_file"), "netns": _LATER}, _HOMES)
    if not table.given("private_key") and not document.faulty("tunnel", "protocol"):
        table.require("private_key_file", _KEYLESS)
    return TunnelConfig(protocol, transport, listen, cipher, private)


def _in_a_file(key: str) -> str:
    return f"put it in a file of mode 0600; see {key}"


def _interface(document: Document, tunnel: TunnelConfig) -> InterfaceConfig:
    table = _section(document, "interface")
    if "interface" not in document.values and not document.faulty("interface"):
        message = "no [interface] section; add it with a name and addresses"
        document.fault(("interface",), message, key="[interface]")
    faulty = document.faulty("interface")
    if faulty:
        document.excuse(("interface", "mode"))
    mode = table.take("mode", fields.choice("tun", "tap"), "tun")
    mtu = MTU_DEFAULT_WIREGUARD if tunnel.protocol == "wireguard" else MTU_DEFAULT[mode]
    interface = InterfaceConfig(
        name=table.take("name", fields.interface_name, ""),
        mode=mode,
        addresses=table.take_list("addresses", fields.address),
        mtu=table.take("mtu", fields.mtu, mtu),
        mac=table.take("mac", fields.mac, None),
        txqueuelen=table.take("txqueuelen", fields.txqueuelen, None),
        bridge=table.take("bridge", fields.interface_name, None),
        persist=table.take("persist", fields.flag, False),
        netns=table.take("netns", fields.namespace, None),
        on_loss=table.take("on_loss", fields.choice("repair", "stop"), "repair"),
    )
    table.close({"bridge_ports": _LATER}, _HOMES)
    if not faulty:
        table.require("name", _NAMELESS)
        if interface.bridge is None:
            table.require("addresses", _NO_ADDRESS)
    return interface


def _network(document: Document) -> NetworkConfig:
    table = _section(document, "network")
    network = NetworkConfig(routes=table.take_list("routes", fields.prefix))
    table.close(dict.fromkeys(_NETWORK_LATER, _LATER), _HOMES)
    return network


def _peers(document: Document, tunnel: TunnelConfig, keys: Path | None) -> tuple[PeerConfig, ...]:
    value = document.values.get("peer", [])
    if isinstance(value, dict):
        document.fault(("peer",), "write [[peer]] with double brackets", key="[peer]")
        _peer(Table(document, ("peer",), value), tunnel, keys)
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        document.fault(("peer",), "expected a section; write [[peer]] and its keys below it")
        return ()
    tables = [Table(document, ("peer", index), one) for index, one in enumerate(value)]
    peers = tuple(_peer(table, tunnel, keys) for table in tables)
    if tunnel.sealed and len(tables) > 1:
        for table in tables:
            table.require("name", _PEER_NAMELESS)
    return peers


def _peer(table: Table, tunnel: TunnelConfig, keys: Path | None) -> PeerConfig:
    name = table.take("name", fields.peer_name, "peer")
    endpoints = table.take_list("endpoint", fields.endpoint, single=True)
    allowed_ips = table.take_list("allowed_ips", fields.prefix)
    if not tunnel.sealed:
        refused = dict.fromkeys(("public_key", "preshared_key", "preshared_key_file"), _CLEAR)
        table.close({**refused, "keepalive": _SESSIONLESS, "pin_endpoint": _SESSIONLESS}, _HOMES)
        return PeerConfig(name, endpoints, allowed_ips)
    peer = PeerConfig(
        name,
        endpoints,
        allowed_ips,
        public_key=table.take("public_key", fields.public_key, None),
        preshared_key=table.take("preshared_key_file", keyfiles.preshared_key(keys, tunnel.private_key), None),
        keepalive=table.take("keepalive", fields.keepalive, KEEPALIVE_DEFAULT if endpoints else 0),
        pin_endpoint=table.take("pin_endpoint", fields.flag, False),
    )
    table.close({"preshared_key": _in_a_file("preshared_key_file")}, _HOMES)
    return peer
