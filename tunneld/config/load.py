"""From a file to a Config: the sections and keys there are, and those that only later versions have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tunneld.config import fields, file, rules
from tunneld.config.document import Document, Faults, KeyPath
from tunneld.config.model import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.config.table import Table
from tunneld.naming import NAME_RULE, is_name
from tunneld.text import nearest, quoted

MTU_DEFAULT = {"tun": 1400, "tap": 1380}

_LATER = "this version cannot do that yet; remove the line"
_CLEAR = 'protocol = "plain" sends everything in clear, so this would not be used; remove the line'
_PROTOCOL = 'missing; write protocol = "plain" in [tunnel] (everything goes in clear)'
_NAMELESS = 'missing; write for example name = "tun0"'
_NO_ADDRESS = "interface has no address; set addresses, or addresses = [] if it needs none"

_KEYS = {
    "tunnel": ("protocol", "transport", "listen"),
    "interface": ("name", "mode", "addresses", "mtu", "mac", "txqueuelen", "bridge", "persist", "netns", "on_loss"),
    "network": ("routes",),
    "peer": ("endpoint", "allowed_ips"),
}
_HOMES = {key: "[[peer]]" if section == "peer" else f"[{section}]" for section, keys in _KEYS.items() for key in keys}
_SECRETS = ("cipher", "private_key", "private_key_file")
_PEER_SECRETS = ("public_key", "preshared_key", "preshared_key_file")
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


def load(path: Path, look_up: Callable[[Endpoint], None] | None = None) -> Config:
    """The configuration in `path`. Reads that file, asks /proc what this process may do, and changes nothing.

    `look_up` is called with each endpoint that is a name and raises OSError when nobody knows it. Raises
    ConfigErrors with every fault that the file has.
    """
    faults = Faults(path)
    if not is_name(path.stem):
        faults.add(0, "", f"its name is the tunnel's; use {NAME_RULE}, then .toml")
    document = Document(file.read(path, faults), faults)
    if not document.values:
        document.fault((), "empty: no [tunnel] section, no [interface] section; start from a sample in configs/")
        faults.raise_any()
    config, peers = _config(path, document)
    rules.check(config, peers, document, look_up)
    faults.raise_any()
    return replace(config, warnings=rules.warnings(config, document))


def _config(path: Path, document: Document) -> tuple[Config, tuple[PeerConfig, ...]]:
    """What the file says, with defaults in place of faulty values, and all its peers."""
    _check_sections(document)
    tunnel, secrets = _tunnel(document)
    interface = _interface(document)
    network = _network(document)
    peers = _peers(document, secrets)
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


def _tunnel(document: Document) -> tuple[TunnelConfig, str]:
    """The section, and what to say of keys and ciphers: nothing where the wrong protocol is the fault."""
    table = _section(document, "tunnel")
    faulty = document.faulty("tunnel")
    protocol = table.take("protocol", fields.protocol, "plain")
    secrets = "" if document.faulty("tunnel", "protocol") else _CLEAR
    tunnel = TunnelConfig(
        protocol=protocol,
        transport=table.take("transport", fields.transport, "udp"),
        listen=table.take("listen", fields.listen, None),
    )
    later = {**dict.fromkeys(_SECRETS, secrets), "netns": _LATER}
    table.close(later, _HOMES, {} if faulty else {"protocol": _PROTOCOL})
    return tunnel, secrets


def _interface(document: Document) -> InterfaceConfig:
    if "interface" not in document.values:
        if not document.faulty("interface"):
            message = "no [interface] section; add it with a name and addresses"
            document.fault(("interface",), message, key="[interface]")
        return InterfaceConfig(name="", mode="tun")
    table = _section(document, "interface")
    faulty = document.faulty("interface")
    mode = table.take("mode", fields.choice("tun", "tap"), "tun")
    interface = InterfaceConfig(
        name=table.take("name", fields.interface_name, ""),
        mode=mode,
        addresses=table.take_list("addresses", fields.address),
        mtu=table.take("mtu", fields.mtu, MTU_DEFAULT[mode]),
        mac=table.take("mac", fields.mac, None),
        txqueuelen=table.take("txqueuelen", fields.txqueuelen, None),
        bridge=table.take("bridge", fields.interface_name, None),
        persist=table.take("persist", fields.flag, False),
        netns=table.take("netns", fields.namespace, None),
        on_loss=table.take("on_loss", fields.choice("repair", "stop"), "repair"),
    )
    missing = {"name": _NAMELESS, "addresses": _NO_ADDRESS}
    if interface.bridge is not None:
        del missing["addresses"]
    table.close({"bridge_ports": _LATER}, _HOMES, {} if faulty else missing)
    return interface


def _network(document: Document) -> NetworkConfig:
    table = _section(document, "network")
    network = NetworkConfig(routes=table.take_list("routes", fields.prefix))
    table.close(dict.fromkeys(_NETWORK_LATER, _LATER), _HOMES, {})
    return network


def _peers(document: Document, secrets: str) -> tuple[PeerConfig, ...]:
    value = document.values.get("peer", [])
    if isinstance(value, dict):
        document.fault(("peer",), "write [[peer]] with double brackets", key="[peer]")
        return (_peer(Table(document, ("peer",), value), secrets),)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        document.fault(("peer",), "expected a section; write [[peer]] and its keys below it")
        return ()
    paths: list[KeyPath] = [("peer", index) for index in range(len(value))]
    return tuple(_peer(Table(document, path, one), secrets) for path, one in zip(paths, value, strict=True))


def _peer(table: Table, secrets: str) -> PeerConfig:
    peer = PeerConfig(
        name=table.take("name", fields.peer_name, "peer"),
        endpoints=table.take_list("endpoint", fields.endpoint, single=True),
        allowed_ips=table.take_list("allowed_ips", fields.prefix),
    )
    later = {**dict.fromkeys(_PEER_SECRETS, secrets), "keepalive": _LATER, "pin_endpoint": _LATER}
    table.close(later, _HOMES, {})
    return peer
