"""`tunneld export --wg`: this end of a tunnel that speaks `wireguard`, as a file of wg-quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tunneld.config import Config
    from tunneld.wgconf import WgConf

STDOUT = 1


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "export",
        help="print a configuration for wg-quick",
        description="Print this end of a tunnel for wg-quick: (umask 077; tunneld export --wg --keys NAME >wg0.conf)",
    )
    parser.add_argument("tunnel", metavar="NAME|FILE", help="/etc/tunneld/NAME.toml, or a path")
    parser.add_argument("--wg", action="store_true", required=True, help="as a file of wg-quick")
    parser.add_argument("--keys", action="store_true", help="with the private key and the preshared keys")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld import wgconf
    from tunneld.cli.genkey import put, warn_of_readers
    from tunneld.config import load, resolve
    from tunneld.keys import wipe

    if args.keys and os.isatty(STDOUT):
        example = "(umask 077; tunneld export --wg --keys NAME >FILE)"
        print(f"tunneld export: keys are not shown on a terminal; write them to a file: {example}", file=sys.stderr)
        return 2
    path = resolve(args.tunnel)
    config = load(path)
    _check_protocol(path, config)
    for line in _lost(config):
        print(f"{path}: {line}", file=sys.stderr)
    text = bytearray("".join(f"# {line}\n" for line in _remarks(config, keys=args.keys)).encode())
    body = wgconf.render(translate(config, keys=args.keys))
    text += memoryview(body)[:-1]  # `put` ends the line
    try:
        if args.keys:
            warn_of_readers()
        return put(text, "configuration")
    finally:
        wipe(text)
        wipe(body)


def translate(config: Config, *, keys: bool) -> WgConf:
    """What wg-quick can be told of `config`, whose protocol is wireguard. The secrets stay those of `config`."""
    from tunneld.wgconf import Interface, Peer, WgConf

    tunnel = config.tunnel
    interface = Interface(
        private_key=tunnel.private_key if keys else None,
        listen_port=tunnel.listen.port if tunnel.listen is not None else None,
        addresses=config.interface.addresses,
        mtu=config.interface.mtu,
    )
    peers = [
        Peer(
            public_key=peer.public_key,
            name=peer.name,
            preshared_key=peer.preshared_key if keys else None,
            allowed_ips=peer.allowed_ips,
            endpoint=peer.endpoints[0] if peer.endpoints else None,
            keepalive=peer.keepalive,
        )
        for peer in config.peers
        if peer.public_key is not None
    ]
    return WgConf(interface, tuple(peers))


def _check_protocol(path: Path, config: Config) -> None:
    """Raises ConfigErrors for what wg cannot speak."""
    from tunneld.config.document import Faults
    from tunneld.proto.errors import ConfigErrors

    tunnel = config.tunnel
    if tunnel.protocol == "wireguard":
        return
    chosen = {"transport": tunnel.transport, "mode": config.interface.mode, "cipher": tunnel.cipher}
    only = {"transport": "udp", "mode": "tun", "cipher": "chacha20-poly1305"}
    losses = [f'{key} = "{value}"' for key, value in chosen.items() if value != only[key]]
    loss = f", which loses {' and '.join(losses)}" if losses else ""
    message = f'wg does not speak "{tunnel.protocol}"; write protocol = "wireguard" on both ends first{loss}'
    raise ConfigErrors([Faults(path).error(0, "protocol", message)])


def _lost(config: Config) -> Iterator[str]:
    """Where wg-quick will do something else than we do."""
    from ipaddress import ip_address

    interface, listen = config.interface, config.tunnel.listen
    if listen is not None and not ip_address(listen.host).is_unspecified:
        yield f"listen: wg-quick listens on every address, not on {listen.host} alone"
    for key, given in (
        ("netns", interface.netns is not None),
        ("txqueuelen", interface.txqueuelen is not None),
        ("persist", interface.persist),
        ("pin_endpoint", any(peer.pin_endpoint for peer in config.peers)),
    ):
        if given:
            yield f"{key}: wg-quick has no such setting"
    for peer in config.peers:
        if len(peer.endpoints) > 1:
            yield f'endpoint: wg-quick takes one; peer "{peer.name}" has {peer.endpoints[0]} now'
        for prefix in peer.allowed_ips:
            if not prefix.prefixlen:
                yield f"allowed_ips: wg-quick makes a default route of {prefix}; Table = off prevents that"


def _remarks(config: Config, *, keys: bool) -> Iterator[str]:
    yield f"Made of {config.name}.toml by tunneld export; save it as {config.interface.name}.conf, mode 0600."
    if keys:
        return
    yield "The keys are not in it; export --wg --keys puts them in. From files wg-quick reads them by these lines:"
    yield "PostUp = wg set %i private-key FILE"
    for peer in config.peers:
        if peer.preshared_key is not None:
            yield f"PostUp = wg set %i peer {peer.public_key} preshared-key FILE"
