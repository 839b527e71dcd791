"""The first scene: IP packets between two hosts, over UDP; and what a capture on the wire outside shows of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tunneld.lab import decode, sockets, traffic
from tunneld.lab.capture import Capture
from tunneld.lab.demo import scene
from tunneld.lab.demo.scene import expect, ms
from tunneld.lab.demo.screen import Screen, Step, bar
from tunneld.lab.shell import Session
from tunneld.lab.topology import Pair
from tunneld.proto.const import PREFIX_BYTES

LEFT = "10.9.0.1"
RIGHT = "10.9.0.2"
FILE_BYTES = 100_000_000
COMMAND = "echo this is $HOST"
SECRET = b"the password is swordfish"

_OUTER_HEADERS = 14 + 20 + 8  # Ethernet, IPv4 and UDP, in front of what the daemon sent
_CONFIG = """\
[tunnel]
protocol = "plain"
transport = "udp"
listen = "{outer}:55555"

[interface]
name = "tun0"
mode = "tun"
addresses = ["{inner}/24"]

[[peer]]
name = "{peer}"
endpoint = "{peer_outer}:55555"
"""


async def play(screen: Screen, hosts: Pair) -> None:
    """Raises one of `scene.FAILURES`."""
    screen.heading("Packets: a TUN tunnel over UDP")
    left = _CONFIG.format(outer=hosts.left_v4, inner=LEFT, peer="right", peer_outer=hosts.right_v4)
    right = _CONFIG.format(outer=hosts.right_v4, inner=RIGHT, peer="left", peer_outer=hosts.left_v4)
    daemons = await scene.start(screen, "packets", [(hosts.left, left), (hosts.right, right)])
    await _device(screen, hosts)
    await _addresses(screen, hosts)
    with screen.step("connection") as step:
        await scene.reached(hosts.left, RIGHT)  # UDP has no connection: it is up once datagrams arrive
        await scene.connected(step, daemons)
    await scene.pinged(screen, hosts.left, RIGHT)
    await _file(screen, hosts)
    await _session(screen, hosts)
    await _wire(screen, hosts)


async def _device(screen: Screen, hosts: Pair) -> None:
    with screen.step("device") as step:
        for host in (hosts.left, hosts.right):
            link = scene.link_of(await scene.observe(host), "tun0")
            expect(link.state == "up", f"tun0 is {link.state} on {host.name}")
        step.result = f"tun0 is up on both, MTU {link.mtu}"


async def _addresses(screen: Screen, hosts: Pair) -> None:
    with screen.step("addresses") as step:
        for host, wanted in ((hosts.left, LEFT), (hosts.right, RIGHT)):
            addresses = [str(each.address) for each in (await scene.observe(host)).addresses if each.link == "tun0"]
            expect(f"{wanted}/24" in addresses, f"tun0 on {host.name} has {addresses}, not {wanted}/24")
        step.result = f"{LEFT}/24 on left, {RIGHT}/24 on right"


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
    with screen.step("session") as step:
        async with Session.open(hosts.left, hosts.right, (RIGHT, 7022)) as session:
            done = await session.type(COMMAND, pause=0.03, progress=lambda typed: step.progress(f"$ {typed}"))
        expect(done.answer == "this is right", f"{COMMAND!r} answered {done.answer!r}")
        mean = sum(done.echoes) / len(done.echoes)
        step.result = f"$ {COMMAND} → {done.answer} ({len(done.echoes)} keys, echo in {ms(mean)} ms)"


async def _wire(screen: Screen, hosts: Pair) -> None:
    with screen.step("wire") as step, Capture(hosts.left, "eth0") as capture:
        with sockets.udp(hosts.left, connect=(RIGHT, 7007)) as sock:
            sock.send(SECRET)
        frame = await capture.wait_for(lambda packet: SECRET in packet.data)
        (record,) = (each for each in _records(frame.data[_OUTER_HEADERS:]) if SECRET in each)
        step.result = f'left says "{SECRET.decode()}" to right; on eth0:'
    screen.detail(f"outside: {decode.ethernet(frame.data, shown=0)}, in it:")
    for line in decode.dump(record):
        screen.detail(line)
    screen.detail(f"inside:  {decode.ip(record[PREFIX_BYTES:], shown=0)}")
    screen.detail('In clear (protocol "plain"): anybody on the way can read and change it.', "alarm")


def _records(message: bytes) -> Iterator[bytes]:
    """What a datagram of `plain` holds: each packet after its length."""
    while message:
        end = PREFIX_BYTES + int.from_bytes(message[:PREFIX_BYTES], "big")
        yield message[:end]
        message = message[end:]
