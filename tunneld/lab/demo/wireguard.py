"""The last scene: the other end is a WireGuard, wireguard-go, which `wg` configures."""

from __future__ import annotations

import asyncio
import shutil

from tunneld.lab import network
from tunneld.lab.child import Child
from tunneld.lab.daemon import POLL, Daemon
from tunneld.lab.demo import scene
from tunneld.lab.demo.scene import KEY, Keys, expect
from tunneld.lab.demo.screen import Screen
from tunneld.lab.host import Host
from tunneld.lab.topology import Pair

LEFT = "10.9.2.1"
RIGHT = "10.9.2.2"
PORT = 51820
PACKAGES = {"wireguard-go": "wireguard-go", "wg": "wireguard-tools"}

_CONFIG = f"""\
[tunnel]
protocol = "wireguard"
private_key_file = "{KEY}"
listen = "{{outer}}:{PORT}"

[interface]
name = "tun2"
addresses = ["{LEFT}/24"]

[[peer]]
name = "right"
public_key = "{{key}}"
endpoint = "{{peer_outer}}:{PORT}"
allowed_ips = ["{RIGHT}/32"]
"""


async def play(screen: Screen, hosts: Pair, keys: Keys) -> None:
    """Raises one of `scene.FAILURES`."""
    screen.heading("WireGuard: the other end is not ours")
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        screen.skip("wireguard", f"not installed: apt-get install {' '.join(missing)}")
        return
    with screen.step("partner") as step:
        child = hosts.right.spawn(["wireguard-go", "-f", "wg0"], name="wireguard-go")
        await wait_ready(hosts.right, child)
        peer = ["peer", keys.left, "endpoint", f"{hosts.left_v4}:{PORT}", "allowed-ips", f"{LEFT}/32"]
        ours = ["listen-port", str(PORT), "private-key", str(hosts.right.run_dir / KEY)]
        await _wg(hosts.right, "set", "wg0", *ours, *peer)
        await network.set_state(hosts.right, "wg0", "up")
        await network.give(hosts.right, "wg0", f"{RIGHT}/24")
        step.result = f"wireguard-go: pid {child.pid} on right, configured by wg, with the keys of tunneld genkey"
    with screen.step("daemon") as step:
        text = _CONFIG.format(outer=hosts.left_v4, key=keys.right, peer_outer=hosts.right_v4)
        daemon = Daemon.start(hosts.left, text, name="wireguard")
        await daemon.wait_ready()
        await daemon.wait_state("up")
        step.result = f"tunneld run wireguard.toml: pid {daemon.child.pid} on left"
    await scene.pinged(screen, hosts.left, RIGHT)
    with screen.step("wg show") as step:
        shown = await _wg(hosts.right, "show", "wg0", "transfer")
        received, sent = (int(count) for count in shown.split()[1:])
        expect(received > 0 and sent > 0, f"wg show says {shown}")
        step.result = f"transfer: {received} B received, {sent} B sent, says wg on right"


async def wait_ready(host: Host, child: Child, link: str = "wg0") -> None:
    """Wait until wireguard-go, which is `child`, can be configured. Raises CheckError, TimeoutError."""
    async with asyncio.timeout(5):
        while (await host.run(["wg", "show", link])).code:
            expect(child.running, f"wireguard-go has ended on {host.name}: {child.output()}")
            await asyncio.sleep(POLL)


async def _wg(host: Host, *words: str) -> str:
    done = await host.run(["wg", *words])
    expect(done.code == 0, f"wg {words[0]}: {done.output}")
    return done.output
