"""`tunneld simpletun`: simpletun's own flags and behaviour, without a file. Everything goes in clear."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from tunneld.cli.run import add_loop
from tunneld.proto.const import DEFAULT_PORT

if TYPE_CHECKING:
    from tunneld.config import Config

T = TypeVar("T")


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("simpletun", help="stand in for simpletun, with its flags", description=__doc__)
    parser.add_argument(
        "-i", dest="interface", metavar="IF", required=True, help="the device; its addresses are yours"
    )
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("-s", dest="server", action="store_true", help="server: wait for a client, then for the next")
    role.add_argument("-c", dest="address", metavar="ADDRESS", help="client of the server at this address or name")
    parser.add_argument("-p", dest="port", metavar="PORT", default=str(DEFAULT_PORT), help="default: %(default)s")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("-u", dest="mode", action="store_const", const="tun", help="a TUN device (default)")
    mode.add_argument("-a", dest="mode", action="store_const", const="tap", help="a TAP device")
    parser.add_argument("-d", dest="debug", action="store_true", help="one line for every packet")
    add_loop(parser)
    parser.set_defaults(run=run, mode="tun", parser=parser)


def run(args: argparse.Namespace) -> int:
    from tunneld.config.fields import Fault

    try:
        config = configuration(args)
    except Fault as fault:
        args.parser.error(str(fault))
    from tunneld import daemon, log

    log.setup(logging.INFO)
    # As with simpletun, address, MTU and "up" are the operator's work.
    return daemon.run(config, loop=args.loop, debug=args.debug, kernel_changes=False)


def configuration(args: argparse.Namespace) -> Config:
    """What the flags mean. Raises Fault, which names the flag."""
    from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig, fields

    interface = _flag("-i", fields.interface_name, args.interface)
    port = _flag("-p", fields.port_number, args.port)
    if args.server:
        listen = Endpoint("0.0.0.0", port)
        endpoints: tuple[Endpoint, ...] = ()
    else:
        listen = None
        bare = args.address.removeprefix("[").removesuffix("]")
        endpoints = (Endpoint(_flag("-c", fields.host, bare), port),)
    return Config(
        name=f"simpletun-{interface}",
        path=None,
        tunnel=TunnelConfig(protocol="plain", transport="tcp", listen=listen),
        # A device made anew would lack the operator's addresses, so there is nothing to repair.
        interface=InterfaceConfig(name=interface, mode=args.mode, on_loss="stop"),
        network=NetworkConfig(),
        peers=(PeerConfig(name="simpletun", endpoints=endpoints),),
    )


def _flag(flag: str, parse: Callable[[str], T], value: str) -> T:
    from tunneld.config.fields import Fault

    try:
        return parse(value)
    except Fault as fault:
        raise Fault(f"{flag}: {fault}") from None
