"""`tunneld import`: what wg-quick reads, or `wg showconf` prints, becomes a configuration and its key files."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.text import printable

if TYPE_CHECKING:
    from tunneld.keys import Secret
    from tunneld.wgconf import Interface, Peer, Setting, WgConf

# What becomes of the settings that this version has no use for.
_LEFT_OUT = {
    "DNS": "this version sets no name servers",
    "Table": "routes go to the main table",
    "FwMark": "this version marks no messages",
    "SaveConfig": "a configuration is never written back",
    **dict.fromkeys(("PreUp", "PostUp", "PreDown", "PostDown"), "hooks are never run"),
}
# These say no more than what is so without them.
_DEFAULTS = {("Table", "auto"), ("FwMark", "off"), ("FwMark", "0"), ("FwMark", "0x0"), ("SaveConfig", "false")}

_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_LONGEST_COMMENT = 1000  # characters


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "import",
        help="make a configuration of a file of wg-quick",
        description="Make NAME.toml, NAME.key and preshared key files of NAME.conf.",
    )
    parser.add_argument("file", metavar="FILE", help="such as /etc/wireguard/wg0.conf")
    parser.add_argument("--output", metavar="DIR", default=".", help="where to; - prints the configuration alone")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tunneld import wgconf

    source = Path(args.file)
    _check_name(source)
    conf = wgconf.load(source)
    try:
        text, secrets = translate(source.stem, conf)
        if args.output == "-":
            print(text, end="")
            _tell(source, conf.interface)
            return 0
        target = Path(args.output, f"{source.stem}.toml")
        try:
            _write(target, _mode(conf.interface), text, secrets, force=args.force)
        except OSError as error:
            where = error.filename2 or error.filename or target.parent
            print(f"tunneld: {where}: {error.strerror}; write elsewhere", file=sys.stderr)
            return 1
        _tell(source, conf.interface)
        _judge(target, whole=conf.interface.private_key is not None)
    finally:
        conf.clear()
    return 0


def _tell(source: Path, interface: Interface) -> None:
    for setting in _left_out(interface):
        print(f"{source}:{setting.line}: {setting.key}: not taken over: {_LEFT_OUT[setting.key]}", file=sys.stderr)


def translate(name: str, conf: WgConf) -> tuple[str, dict[str, Secret]]:
    """The configuration of the tunnel `name`, and its key files: their names, and the secrets of `conf` for them."""
    secrets: dict[str, Secret] = {}
    lines = ["[tunnel]", _line("protocol", "wireguard"), _line("private_key_file", f"{name}.key")]
    if conf.interface.private_key is not None:
        secrets[f"{name}.key"] = conf.interface.private_key
    if conf.interface.listen_port is not None:
        lines.append(_line("listen", f"[::]:{conf.interface.listen_port}"))
    lines += ["", "[interface]", _line("name", name), *_interface(conf.interface)]
    taken: list[str] = []
    for number, peer in enumerate(conf.peers, 1):
        lines += ["", "[[peer]]"]
        if len(conf.peers) > 1 or peer.name is not None:
            taken.append(_unused(peer.name or f"peer{number}", taken))
            lines.append(_line("name", taken[-1]))
        lines.append(_line("public_key", str(peer.public_key)))
        if peer.preshared_key is not None:
            stem = re.sub(r"[^A-Za-z0-9._]+", "-", taken[-1] if taken else "").strip("-") or "peer"
            file = _unused(f"{name}-{stem}", [key.removesuffix(".psk") for key in secrets]) + ".psk"
            lines.append(_line("preshared_key_file", file))
            secrets[file] = peer.preshared_key
        lines += _peer(peer)
    return "\n".join(lines) + "\n", secrets


def _interface(interface: Interface) -> Iterator[str]:
    yield _line("addresses", [str(address) for address in interface.addresses])
    if interface.mtu is not None:
        yield _line("mtu", interface.mtu)
    for setting in _left_out(interface):
        # A hook may have been given a key, and this file need not be secret.
        value = _KEY.sub("(a key)", setting.value)
        yield f"# {setting.key} = {printable(value, _LONGEST_COMMENT)} # {_LEFT_OUT[setting.key]}"


def _peer(peer: Peer) -> Iterator[str]:
    if peer.endpoint is not None:
        yield _line("endpoint", str(peer.endpoint))
    for prefix in peer.allowed_ips:
        if not prefix.prefixlen:
            yield f"# {prefix} lets every address through, but this version makes no default route of it."
    yield _line("allowed_ips", [str(prefix) for prefix in peer.allowed_ips])
    if peer.keepalive or peer.endpoint is not None:
        yield _line("keepalive", peer.keepalive)


def _line(key: str, value: object) -> str:
    # JSON's way to write text, a number or a list is one of TOML's.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


def _unused(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or the same with a number where it is taken."""
    candidates = (f"{wanted[:58]}-{number}" for number in range(2, len(taken) + 3))
    return wanted if wanted not in taken else next(one for one in candidates if one not in taken)


def _left_out(interface: Interface) -> list[Setting]:
    return [setting for setting in interface.others if (setting.key, setting.value.lower()) not in _DEFAULTS]


def _mode(interface: Interface) -> int:
    """Hooks may hold passwords, so a configuration that shows some is for its owner alone."""
    from tunneld.wgconf import HOOKS

    return 0o600 if any(setting.key in HOOKS for setting in interface.others) else 0o644


# --- files


def _check_name(source: Path) -> None:
    """Raises ConfigErrors unless the stem, which is the interface for wg-quick, can name interface and tunnel."""
    from tunneld.config.document import Faults
    from tunneld.config.fields import Fault, interface_name
    from tunneld.naming import NAME_RULE, is_name

    faults = Faults(source)
    try:
        if not is_name(interface_name(source.stem)):
            raise Fault(f"use {NAME_RULE}")
    except Fault as fault:
        faults.add(0, "", f"its name is that of tunnel and interface: {fault}; rename the file")
    faults.raise_any()


def _write(target: Path, mode: int, text: str, secrets: Mapping[str, Secret], *, force: bool) -> None:
    """All the files, or none unless `force` replaces some. Raises ConfigErrors, and OSError."""
    from tunneld import durable
    from tunneld.keys import encode

    directory = target.parent
    contents = {directory / file: (encode(secret.raw) + b"\n", 0o600) for file, secret in secrets.items()}
    contents[target] = (text.encode(), mode)
    _check_free(directory, contents, force=force)
    written: list[Path] = []
    try:
        for path, (content, allowed) in contents.items():
            (durable.replace if force else durable.create)(path, content, allowed)
            written.append(path)
        durable.sync_directory(directory)
    except OSError:
        if not force:
            for path in written:
                path.unlink()
        raise
    for path in written:
        print(f"{path}: written")


def _check_free(directory: Path, paths: Collection[Path], *, force: bool) -> None:
    from tunneld.config.document import Faults
    from tunneld.proto.errors import ConfigErrors

    if not directory.is_dir():
        raise ConfigErrors([Faults(directory).error(0, "", "is no directory; make it with mkdir, or give another")])
    there = [] if force else [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        message = "is there already; move it away, or use --force"
        raise ConfigErrors([Faults(path).error(0, "", message) for path in there])


def _judge(target: Path, *, whole: bool) -> None:
    """Say what is still to be done. Raises ConfigErrors with what `tunneld check` would find."""
    from tunneld.config import load

    if not target.stat().st_mode & 0o004:
        print(f"{target}: for your eyes alone; the unit tunneld@{target.stem} needs chmod 644", file=sys.stderr)
    if not whole:
        key = target.with_suffix(".key")
        example = f"(umask 077; wg show {target.stem} private-key >{key})"
        print(f"{key}: to be made, since there is no PrivateKey; for example: {example}", file=sys.stderr)
    load(target, read_keys=whole)
