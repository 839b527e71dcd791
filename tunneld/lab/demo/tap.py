"""The fourth scene: Ethernet frames. Two LANs of two hosts each become one, sealed, over TCP."""

from __future__ import annotations

from tunneld.lab import network
from tunneld.lab.capture import Capture
from tunneld.lab.demo import scene
from tunneld.lab.demo.scene import KEY, Keys, expect
from tunneld.lab.demo.screen import Screen
from tunneld.lab.topology import Lab, Pair

LEFT_LAN = {"left1": "10.20.0.11", "left2": "10.20.0.12"}
RIGHT_LAN = {"right1": "10.20.0.21", "right2": "10.20.0.22"}

_PORT = 55556
_CONFIG = f"""\
[tunnel]
transport = "tcp"
private_key_file = "{KEY}"
{{listen}}

[interface]
name = "tap0"
mode = "tap"
mtu = 1500
bridge = "br0"

[[peer]]
name = "{{peer}}"
public_key = "{{key}}"
{{endpoint}}
"""


async def play(screen: Screen, lab: Lab, hosts: Pair, keys: Keys) -> None:
    """Raises one of `scene.FAILURES`."""
    screen.heading("Frames: a sealed TAP tunnel over TCP bridges two LANs")
    place = f'"{hosts.left_v4}:{_PORT}"'
    left = _CONFIG.format(listen=f"listen = {place}", peer="right", key=keys.right, endpoint="")
    right = _CONFIG.format(listen="", peer="left", key=keys.left, endpoint=f"endpoint = {place}")
    daemons = await scene.start(screen, "frames", [(hosts.left, left), (hosts.right, right)])
    with screen.step("handshake") as step:
        await scene.connected(step, daemons)
    await _bridges(screen, hosts)
    await _arp(screen, lab)
    await scene.pinged(screen, lab.hosts["left2"], RIGHT_LAN["right2"])


async def _bridges(screen: Screen, hosts: Pair) -> None:
    with screen.step("bridge") as step:
        for host in (hosts.left, hosts.right):
            link = scene.link_of(await scene.observe(host), "tap0")
            expect(link.master == "br0", f"tap0 is no port of br0 on {host.name}")
        step.result = "tap0 is a port of br0 on both, beside the hosts of each LAN"


async def _arp(screen: Screen, lab: Lab) -> None:
    """The first packet between the LANs: the question goes to everybody, and one answer comes back."""
    asker, asked = lab.hosts["left1"], lab.hosts["right1"]
    address = RIGHT_LAN["right1"]
    question = f"ARP who has {address}? tell {LEFT_LAN['left1']}"
    with screen.step("arp") as step, Capture(lab.hosts["right2"], "eth0") as bystander:
        expect(address not in network.neighbours(asker), f"left1 knew {address} before it asked")
        await scene.reached(asker, address)
        await bystander.wait_for(lambda packet: str(packet) == question)
        mac = network.neighbours(asker).get(address)
        expect(mac == network.mac(asked, "eth0"), f"left1 believes that {address} is at {mac}")
        step.result = f"left1: who has {address}? right1: it is at {mac}"
