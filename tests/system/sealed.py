"""Sealed tunnels for the tests: a Setup with keys, which every host makes from its own name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.system.conftest import INSIDE, LINK, NAME, Setup, toml
from tunneld.keys import PrivateKey, encode
from tunneld.lab import network
from tunneld.lab.host import Host
from tunneld.lab.topology import Pair

CIPHERS = ("chacha20-poly1305", "aes-256-gcm")
SIDES = ("left", "right")
PSK = hashlib.blake2s(b"the preshared key of the lab").digest()


@dataclass(frozen=True)
class Sealed(Setup):
    """As Setup; `protocol` and `cipher` are for both ends. The keys are written beside the files that name them."""

    protocol: str = "tunneld"
    cipher: str = CIPHERS[0]

    def left(self, hosts: Pair, *args: Any, **sections: dict[str, Any]) -> str:
        write_keys(hosts.left)
        return super().left(hosts, *args, **sections)

    def right(self, hosts: Pair, *args: Any, **sections: dict[str, Any]) -> str:
        write_keys(hosts.right)
        return super().right(hosts, *args, **sections)

    def _text(self, end: int, tunnel: dict[str, Any], peer: dict[str, Any], more: dict[str, dict[str, Any]]) -> str:
        protocol = {"protocol": self.protocol, "private_key_file": f"{NAME}.key"}
        if self.protocol == "tunneld":
            protocol["cipher"] = self.cipher
        return super()._text(end, protocol | tunnel, known(SIDES[1 - end], self.mode, 1 - end) | peer, more)


def known(name: str, mode: str, end: int) -> dict[str, Any]:
    """What a [[peer]] says of who `name` is, and of the addresses of that end of the tunnel."""
    allowed = [f"{INSIDE['v4'][end]}/32", *([f"{INSIDE['v6'][end]}/128"] if network.HAS_IPV6 else [])]
    more = {"allowed_ips": allowed} if mode == "tun" else {}
    return {"name": name, "public_key": str(key_of(name).public_key()), "preshared_key_file": f"{NAME}.psk", **more}


def hub_text(host: Host, number: int, peers: Mapping[str, dict[str, Any]], **tunnel: Any) -> str:
    """A configuration with several peers, of the end 10.9.0.`number`.

    `peers` are by name, with what their [[peer]] says beside keys. `tunnel` is [tunnel], and `mode` for [interface].
    """
    write_keys(host)
    mode = tunnel.pop("mode")
    mac = {"mac": f"02:00:00:00:09:{number:02x}"} if mode == "tap" else {}
    own = {
        "tunnel": {"private_key_file": f"{NAME}.key", **tunnel},
        "interface": {"name": LINK, "mode": mode, "mtu": 1400, "addresses": [f"10.9.0.{number}/24"], **mac},
    }
    keys = {name: {"name": name, "public_key": str(key_of(name).public_key())} for name in peers}
    return toml(**own) + "".join(toml(peer=keys[name] | peer) for name, peer in peers.items())


def key_of(name: str) -> PrivateKey:
    """The private key of the host called so."""
    return PrivateKey(bytearray(hashlib.blake2s(name.encode(), person=b"labkeys").digest()))


def write_keys(host: Host) -> None:
    """The files of keys that the configuration of `host` names."""
    for name, raw in (("key", bytes(key_of(host.name).raw)), ("psk", PSK)):
        path = host.run_dir / f"{NAME}.{name}"
        path.write_bytes(encode(raw) + b"\n")
        path.chmod(0o600)
