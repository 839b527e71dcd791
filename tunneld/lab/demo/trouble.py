"""The second scene: what goes wrong with the first one's tunnel heals by itself; and its keys are renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tunneld.edge import clock
from tunneld.lab import network
from tunneld.lab.capture import Capture, Packet
from tunneld.lab.clocked import STEP
from tunneld.lab.daemon import CLOCKED, POLL, Daemon
from tunneld.lab.demo.scene import expect, ms
from tunneld.lab.demo.screen import Screen
from tunneld.lab.demo.tun import LEFT, RIGHT
from tunneld.lab.demo.wire import HEADERS
from tunneld.lab.ping import ping, wait_reachable
from tunneld.lab.topology import Pair
from tunneld.proto.profile import MessageType, tunneld_profile

PATIENCE = 5.0  # seconds for what must follow
RESTARTED = "was restarted"

_WORDS = tunneld_profile("udp", "tun", "chacha20-poly1305").words


async def play(screen: Screen, hosts: Pair, daemons: Sequence[Daemon]) -> None:
    """Of `daemons`, left and right, the right one is replaced. Raises one of `scene.FAILURES`."""
    screen.heading("Trouble: nobody mends anything by hand")
    left, right = daemons
    await _cable(screen, hosts, left)
    right = await _kill(screen, hosts, left, right)
    await _renew(screen, hosts, right)


async def _cable(screen: Screen, hosts: Pair, left: Daemon) -> None:
    with screen.step("cable") as step:
        began = clock.now()
        await network.set_state(hosts.right, "eth0", "down")
        step.progress("pulled out")
        pings = await ping(hosts.left, RIGHT, count=3, timeout=0.2)
        expect(pings.lost == 3, "pings are answered without a cable")
        await network.set_state(hosts.right, "eth0", "up")
        plugged = clock.now()
        await wait_reachable(hosts.left, RIGHT, PATIENCE)
        healed = clock.now() - plugged
        handshake = (await _peer(left))["latest_handshake"]
        expect(handshake > clock.now() - began, "there were new keys: the session did not outlive the cable")
        step.result = (
            f"out: {pings.lost} of {pings.sent} pings lost; in: the first answer after {ms(healed)} ms, same keys"
        )


async def _kill(screen: Screen, hosts: Pair, left: Daemon, right: Daemon) -> Daemon:
    with screen.step("kill -9") as step:
        await right.kill()
        began = clock.now()
        step.progress("right starts again")
        right = Daemon.start(hosts.right, right.config.read_text(), name=right.name, command=CLOCKED)
        await right.wait_ready()
        await wait_reachable(hosts.left, RIGHT, PATIENCE)
        took = clock.now() - began
        async with asyncio.timeout(PATIENCE):
            while RESTARTED not in left.log():  # noqa: ASYNC110 (a log file announces nothing)
                await asyncio.sleep(POLL)
        step.result = (
            f"right starts again: new keys, and traffic {took:.1f} s after; left logs: peer right: {RESTARTED}"
        )
    return right


async def _renew(screen: Screen, hosts: Pair, right: Daemon) -> None:
    """The end that began the session, which is the one that was restarted, renews it when it is two minutes old."""
    with screen.step("re-key") as step, Capture(hosts.right, "eth0") as wire:
        right.move_clock()
        pings = await ping(hosts.right, LEFT, count=10)
        asked = await wire.wait_for(lambda frame: _is(MessageType.INITIATION, frame), PATIENCE)
        answered = await wire.wait_for(lambda frame: _is(MessageType.RESPONSE, frame), PATIENCE)
        expect(not pings.lost, f"{pings.lost} of {pings.sent} pings were lost")
        age = (await _peer(right))["latest_handshake"]
        expect(age < STEP, f"the keys of right are {age:.0f} s old")
        step.result = (
            f"{STEP:.0f} s later (the lab moves right's clock on): new keys in "
            f"{ms(answered.time - asked.time)} ms, {len(pings.times)} of {pings.sent} pings answered"
        )


async def _peer(daemon: Daemon) -> dict[str, Any]:
    peer: dict[str, Any] = (await daemon.status())["peers"][0]
    return peer


def _is(kind: MessageType, frame: Packet) -> bool:
    return frame.data[HEADERS : HEADERS + 4] == _WORDS[kind]
