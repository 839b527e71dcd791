"""`tunneld show`: what running tunnels say of themselves."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from tunneld.cli.down import tunnel_name
from tunneld.control import SYSTEM_DIR, ControlError, NotRunning, request, run_dir, socket_path
from tunneld.remedies import REMEDIES
from tunneld.text import duration, printable

if TYPE_CHECKING:
    from tunneld.control import PeerStatus, Status

STATE_COLOURS = {"up": "32", "connecting": "33", "listening": "33", "down": "31"}
LONGEST_SENTENCE = 500
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("show", help="show running tunnels", description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", type=tunnel_name, help="only this tunnel")
    parser.add_argument("--json", action="store_true", help="for programs: one object with NAME, else a list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return _show_one(args.name, args.json) if args.name is not None else _show_all(args.json)


def _show_one(name: str, as_json: bool) -> int:
    try:
        status = _status(name)
    except ControlError as error:
        hint = ""
        if isinstance(error, NotRunning):
            closed = _closed()
            hint = f" as far as can be seen, but {closed}" if closed else f"; start it: tunneld run {printable(name)}"
        print(f"tunneld: {printable(name)}: {error}{hint}", file=sys.stderr)
        return 1
    print(json.dumps(status, ensure_ascii=False, indent=2) if as_json else "\n".join(lines(status, _colourful())))
    return 0


def _show_all(as_json: bool) -> int:
    found, failed = [], False
    names = sorted(path.stem for path in run_dir().glob("*.sock"))
    for name in names:
        try:
            found.append(_status(name))
        except NotRunning:
            print(
                f"tunneld: {printable(name)}: was killed; clean up: tunneld down {printable(name)}", file=sys.stderr
            )
        except ControlError as error:
            print(f"tunneld: {printable(name)}: {error}", file=sys.stderr)
            failed = True
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    elif found:
        print("\n\n".join("\n".join(lines(status, _colourful())) for status in found))
    if not names and (closed := _closed()):
        print(f"tunneld: {closed}", file=sys.stderr)
        failed = True
    elif not names and not as_json:
        print(f"no tunnel runs here (no socket in {run_dir()})", file=sys.stderr)
    return 1 if failed else 0


def _closed() -> str:
    """Where tunnels may run that this user cannot see, and what to do; "" if there is no such place."""
    for place in (run_dir(), SYSTEM_DIR):
        if place.is_dir() and not os.access(place, os.R_OK | os.X_OK):
            return f"{place} is closed to this user; ask as root"
    return ""


def _status(name: str) -> Status:
    return cast("Status", request(socket_path(name), {"request": "status"}))


def lines(status: Status, colourful: bool = False) -> Iterable[str]:
    """What a person reads of `status`, in the manner of `wg show`."""

    def paint(text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colourful else text

    clear = paint(" (in clear)", "33") if status["protocol"] == "plain" else ""
    cipher = f", {status['cipher']}" if status["cipher"] else ""
    yield f"{paint('tunnel', '1')}: {paint(status['name'], '32')}"
    yield f"  protocol: {status['protocol']} over {status['transport']}{cipher}{clear}"
    if status["public_key"]:
        yield f"  public key: {status['public_key']}"
    mtu = "" if status["mtu"] is None else f", mtu {status['mtu']}"
    yield f"  interface: {status['interface']} ({status['mode']}{mtu})"
    state = paint(status["state"], STATE_COLOURS.get(status["state"], "0"))
    yield f"  state: {state} for {duration(status['since'])}: {printable(status['reason'], LONGEST_SENTENCE)}"
    yield f"  uptime: {duration(status['uptime'])}"
    counters, drops = status["counters"], status["drops"]
    received, sent = counters["link_received_bytes"], counters["link_sent_bytes"]
    yield f"  transfer: {_size(received)} received, {_size(sent)} sent"
    yield f"  packets: {counters['device_written_packets']} received, {counters['device_read_packets']} sent"
    for reason, count in sorted(drops.items()):
        if count:
            yield f"  dropped: {paint(f'{printable(reason)} {count}', '31')}{_remedy(reason)}"
    for cause in status["causes"]:
        times = "" if cause["count"] == 1 else f"{cause['count']} times, last "
        sentence = paint(printable(cause["sentence"], LONGEST_SENTENCE), "33")
        yield f"  cause: {sentence} ({times}{duration(cause['last'])} ago)"
    for peer in status["peers"]:
        yield ""
        yield f"{paint('peer', '1')}: {paint(printable(peer['name']), '33')}"
        yield from _peer_lines(peer, alone=len(status["peers"]) == 1)


def _peer_lines(peer: PeerStatus, *, alone: bool) -> Iterable[str]:
    """The state of a peer that is alone is that of the tunnel."""
    if peer["public_key"] is not None:
        yield f"  public key: {peer['public_key']}"
    yield f"  endpoint: {printable(peer['endpoint'] or '(it comes to us)')}"
    if peer["allowed_ips"]:
        yield f"  allowed ips: {', '.join(peer['allowed_ips'])}"
    if not alone:
        yield f"  state: {peer['state']}: {printable(peer['reason'], LONGEST_SENTENCE)}"
    if peer["link"] is not None:
        yield f"  link: {printable(peer['link'])}"
    for key, label in (
        ("connected_since", "connected"),
        ("latest_handshake", "latest handshake"),
        ("last_received", "last received"),
    ):
        age = cast("float | None", peer.get(key))
        if age is not None:
            yield f"  {label}: {duration(age)} ago"
    if peer["received_bytes"] is not None and peer["sent_bytes"] is not None:
        yield f"  transfer: {_size(peer['received_bytes'])} received, {_size(peer['sent_bytes'])} sent"
    if peer["round_trip"] is not None:
        yield f"  round trip: {peer['round_trip'] * 1000:.1f} ms, {(peer['loss'] or 0) * 100:.0f} % lost"
    if peer["keepalive"]:
        yield f"  persistent keepalive: every {peer['keepalive']} seconds"


def _remedy(reason: str) -> str:
    """What to do about a drop; nothing is known of the reasons of another version."""
    known = {each.value: remedy for each, remedy in REMEDIES.items()}
    return f": {known[reason]}" if reason in known else ""


def _colourful() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _size(count: int) -> str:
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"
