"""The whole demo: six hosts, the picture of them, five scenes and a verdict."""

from __future__ import annotations

from typing import TextIO

from tunneld.edge import clock
from tunneld.lab import topology
from tunneld.lab.demo import keep, plain, scene, tap, trouble, tun, wireguard
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Lab, Pair

PICTURE = """
 left1 ┐     ┌──────┐   the wire   ┌───────┐     ┌ right1
       ├ br0 ┤ left ├──────────────┤ right ├ br0 ┤
 left2 ┘     └──────┘              └───────┘     └ right2
            192.0.2.1              192.0.2.2

  10.9.0.1  ══ tun0, sealed, UDP ════════════  10.9.0.2
  10.9.1.1  ── tun1, in clear, to compare ───  10.9.1.2
  10.20.0.x ══ tap0, sealed, TCP, bridged ═══ 10.20.0.x
  10.9.2.1  ══ tun2, WireGuard ══════════════  10.9.2.2
"""


async def play(screen: Screen, mode: str, keep_hosts: bool, stdin: TextIO) -> bool:
    """Play it; whether every step passed. `mode` is what `sandbox.enter` returned."""
    began = clock.now()
    screen.say(f"tunneld: two hosts on this machine, {_how(mode)}", "bold")
    screen.say()
    async with Lab.open() as lab:
        try:
            hosts = await _build(screen, lab)
            keys = await scene.make_keys(screen, hosts)
            daemons = await tun.play(screen, hosts, keys)
            await trouble.play(screen, hosts, daemons)
            await plain.play(screen, hosts)
            await tap.play(screen, lab, hosts, keys)
            await wireguard.play(screen, hosts, keys)
        except scene.FAILURES:
            passed = False
        else:
            passed = True
        took = clock.now() - began
        if passed:
            screen.heading(f"It works: all {screen.passed} steps passed, in {took:.1f} s.")
        else:
            _show_logs(screen, lab)
            screen.heading(f"It does not work: a step failed after {screen.passed} that passed, in {took:.1f} s.")
        if keep_hosts:
            await keep.wait(screen, lab, mode, stdin)
    return passed


async def _build(screen: Screen, lab: Lab) -> Pair:
    for line in PICTURE.strip("\n").split("\n"):
        screen.say(line)
    screen.say()
    with screen.step("hosts") as step:
        hosts = await topology.pair(lab)
        for gateway, members in ((hosts.left, tap.LEFT_LAN), (hosts.right, tap.RIGHT_LAN)):
            step.progress(f"a LAN behind {gateway.name}")
            await topology.lan(lab, gateway, {name: [f"{address}/24"] for name, address in members.items()})
        step.result = f"{len(lab.hosts)} network namespaces, joined by veth; nothing outlives this demo"
    return hosts


def _how(mode: str) -> str:
    return "as root, in namespaces" if mode == "root" else "without root, in a user namespace"


def _show_logs(screen: Screen, lab: Lab) -> None:
    for name, host in lab.hosts.items():
        for log in sorted(host.run_dir.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            if lines:
                screen.say(f"{log.name} on {name}:", "bold")
            for line in lines[-12:]:
                screen.say(f"    {line}")
