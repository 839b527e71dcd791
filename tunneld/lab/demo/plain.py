"""The third scene, to compare: the same sentence through a tunnel in clear. It shows that a capture would see it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tunneld.lab import decode
from tunneld.lab.daemon import Daemon
from tunneld.lab.demo import scene, wire
from tunneld.lab.demo.scene import expect
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Pair
from tunneld.proto.const import PREFIX_BYTES

LEFT = "10.9.1.1"
RIGHT = "10.9.1.2"
PORT = 55557

_CONFIG = f"""\
[tunnel]
protocol = "plain"
listen = "{{outer}}:{PORT}"

[interface]
name = "tun1"
addresses = ["{{inner}}/24"]

[[peer]]
name = "{{peer}}"
endpoint = "{{peer_outer}}:{PORT}"
"""


async def play(screen: Screen, hosts: Pair) -> None:
    """Raises one of `scene.FAILURES`. Nothing of it goes on."""
    screen.heading('In clear, to compare: protocol "plain"')
    daemons = await start(screen, hosts)
    with screen.step("wire") as step:
        heard = await wire.say(hosts, RIGHT, PORT)
        expect(heard.showing() >= wire.TIMES, f"only {heard.showing()} frames on eth0 show what left said")
        step.result = f"left says the same to right; of {len(heard.frames)} frames on eth0, {heard.showing()} show it"
    record = next(record for message in heard.messages for record in _records(message) if wire.MARKER in record)
    wire.show(screen, record, f"{hosts.left_v4} > {hosts.right_v4}", "alarm")
    screen.detail(f"inside: {decode.ip(record[PREFIX_BYTES:], shown=0)}")
    screen.detail("Anybody on the way can read it and change it.", "alarm")
    async with asyncio.TaskGroup() as tasks:
        for daemon in daemons:
            tasks.create_task(daemon.stop())


async def start(screen: Screen, hosts: Pair) -> list[Daemon]:
    """The two daemons, left and right."""
    left = _CONFIG.format(outer=hosts.left_v4, inner=LEFT, peer="right", peer_outer=hosts.right_v4)
    right = _CONFIG.format(outer=hosts.right_v4, inner=RIGHT, peer="left", peer_outer=hosts.left_v4)
    return await scene.start(screen, "clear", [(hosts.left, left), (hosts.right, right)])


def _records(message: bytes) -> Iterator[bytes]:
    """What a datagram of `plain` holds: each packet after its length."""
    while message:
        end = PREFIX_BYTES + int.from_bytes(message[:PREFIX_BYTES], "big")
        yield message[:end]
        message = message[end:]
