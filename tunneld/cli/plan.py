"""`tunneld plan`: the `ip` commands that `tunneld run` would equal now. Changes nothing, and needs no root."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunneld.config import Config
    from tunneld.netcfg.model import Observed, Wish


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("plan", help="show what a tunnel would change in the kernel", description=__doc__)
    parser.add_argument("tunnel", metavar="NAME|FILE", help="/etc/tunneld/NAME.toml, or a path")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld.config import load, resolve
    from tunneld.config.locate import locate
    from tunneld.netcfg.model import KernelError, Wish
    from tunneld.proto.errors import ConfigErrors

    path = resolve(args.tunnel)
    config = load(path, read_keys=False)
    try:
        commands = _commands(config, Wish.from_config(config))
    except ConfigErrors as faults:
        raise locate(path, faults) from None
    except KernelError as error:
        print(f"tunneld: {error}", file=sys.stderr)
        return 1
    for command in commands:
        print(command)
    if not commands:
        print(f"{path}: nothing to change", file=sys.stderr)
    return 0


def _commands(config: Config, wish: Wish) -> list[str]:
    """Raises ConfigErrors with every fault of the kernel's and of the ports', KernelError."""
    import asyncio

    from tunneld.netcfg.operation import spell
    from tunneld.netcfg.plan import plan
    from tunneld.proto.errors import ConfigError, ConfigErrors

    observed = asyncio.run(_observe(wish))
    # What a running daemon of this name holds is as it should be.
    taken = [] if _runs(config.name) else list(_taken(config, observed))
    faults = [ConfigError(wish.file, 0, key, message) for key, message in taken]
    commands: list[str] = []
    if observed.link(wish.interface) is None:
        commands.append(spell(f"ip tuntap add {wish.interface} mode {wish.mode}", wish.netns))
        observed = _with_device(wish, observed)
    try:
        commands += [spell(step.operation.command, wish.netns) for step in plan(wish, observed)]
    except ConfigErrors as more:
        faults += more.errors
    if faults:
        raise ConfigErrors(faults)
    return commands


def _runs(name: str) -> bool:
    """Whether our daemon of this name runs. One that we may not look at is in the way like any other process."""
    from tunneld import instance
    from tunneld.control import run_dir

    try:
        return instance.is_held(run_dir(), name)
    except PermissionError:
        return False


async def _observe(wish: Wish) -> Observed:
    import os

    from tunneld.edge import netns
    from tunneld.netcfg.kernel import Kernel
    from tunneld.proto.errors import ConfigError, ConfigErrors

    if wish.netns is None:
        async with Kernel.open() as kernel:
            return await kernel.observe()
    try:
        namespace = netns.open_named(wish.netns)
    except OSError as error:
        message = f"{wish.netns}: {error.strerror}; make it with: ip netns add {wish.netns}"
        raise ConfigErrors([ConfigError(wish.file, 0, "netns", message)]) from None
    try:
        async with Kernel.open(namespace) as kernel:
            return await kernel.observe()
    finally:
        os.close(namespace)


def _with_device(wish: Wish, observed: Observed) -> Observed:
    from dataclasses import replace

    from tunneld.netcfg.model import Link

    return replace(observed, links=(*observed.links, Link.fresh(wish.interface, wish.mode)))


def _taken(config: Config, observed: Observed) -> Iterator[tuple[str, str]]:
    """The key and the message of what another process has: the port, the device."""
    from tunneld.edge import ports, tcp, tuntap, udp

    transport, listen, name = config.tunnel.transport, config.tunnel.listen, config.interface.name
    if listen is not None:
        try:
            (tcp.listen if transport == "tcp" else udp.open_bound)(listen).close()
        except OSError as error:
            yield "listen", ports.refusal(error, transport, listen)
    device = observed.link(name)
    if device is not None and device.kind == "tun" and not device.persistent:
        holders = "; ".join(sorted(tuntap.holders(name)))
        yield "name", f"{name} is busy{f' ({holders})' if holders else ''}; stop that process or choose another name"
