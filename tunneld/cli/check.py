"""`tunneld check`: every mistake of a configuration, without touching anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunneld.text import quoted

if TYPE_CHECKING:
    from tunneld.config import Config, Endpoint, PeerConfig


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("check", help="find the mistakes in a configuration", description=__doc__)
    parser.add_argument("tunnel", metavar="NAME|FILE", help="/etc/tunneld/NAME.toml, or a path")
    parser.add_argument("--strict", action="store_true", help="names must resolve now, and warnings are faults")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld.config import load, resolve

    config = load(resolve(args.tunnel), _look_up if args.strict else None)
    for warning in config.warnings:
        print(warning if args.strict else f"{warning} (a warning)", file=sys.stderr)
    if args.strict and config.warnings:
        return 2
    print(f"{config.path}: no fault: {_summary(config)}")
    for line in _peers(config):
        print(line)
    return 0


def _look_up(endpoint: Endpoint) -> None:
    import socket

    socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)


def _summary(config: Config) -> str:
    tunnel, interface = config.tunnel, config.interface
    how = tunnel.cipher if tunnel.sealed else "in clear"
    words = [f"{tunnel.protocol} ({how}) over {tunnel.transport}", f"{interface.mode} device {interface.name}"]
    if tunnel.listen is not None:
        words.append(f"listens on {tunnel.listen}")
    if tunnel.private_key is not None:
        words.append(f"our public key is {tunnel.private_key.public_key()}")
    elif config.peer.endpoints:
        words.append(f"connects to {_endpoints(config.peer)}")
    return ", ".join(words)


def _peers(config: Config) -> Iterator[str]:
    """A line for each peer that is told by its key."""
    for peer in config.peers if config.tunnel.sealed else ():
        where = f"at {_endpoints(peer)}" if peer.endpoints else "comes to us"
        secret = "" if peer.preshared_key is None else ", with a preshared key"
        yield f"  peer {quoted(peer.name)}: {where}, public key {peer.public_key}{secret}"


def _endpoints(peer: PeerConfig) -> str:
    return " or ".join(map(str, peer.endpoints))
