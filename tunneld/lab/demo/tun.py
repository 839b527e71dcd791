"""The first scene: IP packets between two hosts, sealed, over UDP."""

from __future__ import annotations

from functools import partial

from tunneld.lab import traffic
from tunneld.lab.daemon import Daemon
from tunneld.lab.demo import scene, wire
from tunneld.lab.demo.scene import KEY, Keys, expect, ms
from tunneld.lab.demo.screen import Screen, Step, bar
from tunneld.lab.host import Host
from tunneld.lab.shell import Session
from tunneld.lab.topology import Pair

LEFT = "10.9.0.1"
RIGHT = "10.9.0.2"
PORT = 55555
FILE_BYTES = 30_000_000
COMMAND = "echo this is $HOST"

_CONFIG = f"""\
[tunnel]
private_key_file = "{KEY}"
listen = "{{outer}}:{PORT}"

[interface]
name = "tun0"
addresses = ["{{inner}}/24"]

[[peer]]
name = "{{peer}}"
public_key = "{{key}}"
{{endpoint}}
allowed_ips = ["{{peer_inner}}/32"]
"""


async def play(screen: Screen, hosts: Pair, keys: Keys) -> list[Daemon]:
    """The two daemons, left and right, which go on. Raises one of `scene.FAILURES`."""
    screen.heading("Packets: a sealed TUN tunnel over UDP")
    daemons = await scene.start(screen, "packets", configs(hosts, keys))
    with screen.step("handshake") as step:
        await scene.connected(step, daemons)
    await _device(screen, hosts)
    await scene.pinged(screen, hosts.left, RIGHT)
    await _wire(screen, hosts)
    await _file(screen, hosts)
    await _session(screen, hosts)
    return daemons


def configs(hosts: Pair, keys: Keys) -> list[tuple[Host, str]]:
    """Each host with the text of its file, left and right."""
    # Only right calls, so it is known who renews the keys later: the end that began.
    left = _CONFIG.format(
        outer=hosts.left_v4, inner=LEFT, peer="right", key=keys.right, endpoint="", peer_inner=RIGHT
    )
    call = f'endpoint = "{hosts.left_v4}:{PORT}"'
    right = _CONFIG.format(
        outer=hosts.right_v4, inner=RIGHT, peer="left", key=keys.left, endpoint=call, peer_inner=LEFT
    )
    return [(hosts.left, left), (hosts.right, right)]


async def _device(screen: Screen, hosts: Pair) -> None:
    with screen.step("device") as step:
        for host, wanted in ((hosts.left, LEFT), (hosts.right, RIGHT)):
            observed = await scene.observe(host)
            link = scene.link_of(observed, "tun0")
            expect(link.state == "up", f"tun0 is {link.state} on {host.name}")
            addresses = [str(each.address) for each in observed.addresses if each.link == "tun0"]
            expect(f"{wanted}/24" in addresses, f"tun0 on {host.name} has {addresses}, not {wanted}/24")
        step.result = f"tun0 is up on both: {LEFT}/24 and {RIGHT}/24, MTU {link.mtu}"


async def _wire(screen: Screen, hosts: Pair) -> None:
    with screen.step("wire") as step:
        heard = await wire.say(hosts, RIGHT, PORT)
        expect(not heard.showing(), f"{heard.showing()} frames on eth0 show what left said")
        step.result = (
            f'left says "{wire.MARKER.decode()}" {wire.TIMES} times, right hears it; '
            f"of {len(heard.frames)} frames on eth0, 0 show it"
        )
    wire.show(screen, heard.messages[0], f"{hosts.left_v4} > {hosts.right_v4}", "good")


async def _file(screen: Screen, hosts: Pair) -> None:
    source, target = hosts.left.run_dir / "file", hosts.right.run_dir / "file"
    with screen.step("file") as step:
        step.progress("making random bytes")
        traffic.make_file(source, FILE_BYTES)
        try:
            sent = await traffic.transfer(
                hosts.left, source, hosts.right, target, (RIGHT, 7000), progress=partial(_show_share, step)
            )
        finally:
            source.unlink()
            target.unlink(missing_ok=True)
        expect(sent.intact, f"SHA-256 differs: sent {sent.sent}, received {sent.received}")
        step.result = (
            f"{sent.size / 1e6:.0f} MB in {sent.seconds:.2f} s, {sent.rate / 1e6:.0f} Mbit/s; "
            f"SHA-256 {sent.sent[:8]}… at both ends"
        )


def _show_share(step: Step, received: int) -> None:
    step.progress(f"{bar(received / FILE_BYTES)} {received / 1e6:.0f} of {FILE_BYTES / 1e6:.0f} MB")


async def _session(screen: Screen, hosts: Pair) -> None:
    with screen.step("shell") as step:
        async with Session.open(hosts.left, hosts.right, (RIGHT, 7022)) as session:
            done = await session.type(COMMAND, pause=0.03, progress=lambda typed: step.progress(f"$ {typed}"))
        expect(done.answer == "this is right", f"{COMMAND!r} answered {done.answer!r}")
        mean = sum(done.echoes) / len(done.echoes)
        step.result = f"$ {COMMAND} → {done.answer} ({len(done.echoes)} keys, echo in {ms(mean)} ms)"
