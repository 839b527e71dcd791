"""The ways that are measured: a bare cable, and real daemons on both ends of it, all up at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from tunneld.lab.bench.measure import Ends, Way
from tunneld.lab.bench.remote import End
from tunneld.lab.daemon import Daemon
from tunneld.lab.ping import wait_reachable
from tunneld.lab.topology import Pair

BARE = "bare veth"
FIRST_PORT = 55555
READY = 20.0  # seconds; many daemons start at once, on as few cores as there are


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of tunnel, in the words of its configuration."""

    protocol: str
    transport: str
    mode: str

    def __str__(self) -> str:
        return f"{self.protocol} {self.transport} {self.mode}"

    def text(self, number: int, own: str, peer: str, endpoint: str) -> str:
        """The configuration of one end; `number` tells tunnels of one host apart."""
        port = FIRST_PORT + number
        return (
            f'[tunnel]\nprotocol = "{self.protocol}"\ntransport = "{self.transport}"\n'
            + (f'listen = "0.0.0.0:{port}"\n' if self.transport == "udp" or not endpoint else "")
            + f'[interface]\nname = "bench{number}"\nmode = "{self.mode}"\naddresses = ["{own}/24"]\n'
            + '[[peer]]\nname = "peer"\n'
            + (f'allowed_ips = ["{peer}/32"]\n' if self.mode == "tun" else "")
            + (f'endpoint = "{endpoint}:{port}"\n' if endpoint else "")
        )


VARIANTS = tuple(Variant("plain", transport, mode) for transport in ("tcp", "udp") for mode in ("tun", "tap"))


async def ends(hosts: Pair) -> Ends:
    """Raises OSError, MeasureError."""
    return Ends(
        await End.start(hosts.left, "left-end"),
        await End.start(hosts.right, "right-end"),
        await End.start(hosts.left, "pinger"),
    )


def bare(hosts: Pair) -> Way:
    """The cable itself, which everything is compared with."""
    return Way(BARE, hosts.left_v4, hosts.right_v4)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Two daemons, the left one connecting, and the way through them."""

    way: Way
    hosts: Pair
    daemons: tuple[Daemon, Daemon]

    @classmethod
    def start(cls, variant: Variant, number: int, hosts: Pair) -> Tunnel:
        """`number` tells tunnels apart: at most 255. Raises OSError."""
        left, right = f"10.99.{number}.1", f"10.99.{number}.2"
        name = f"bench{number}"
        daemons = (
            Daemon.start(hosts.right, variant.text(number, right, left, ""), name=name),
            Daemon.start(hosts.left, variant.text(number, left, right, hosts.right_v4), name=name),
        )
        return cls(Way(str(variant), left, right, tuple(daemon.child.pid for daemon in daemons)), hosts, daemons)

    async def wait_up(self) -> None:
        """Wait until it carries packets. Raises DaemonEndedError, TimeoutError."""
        for daemon in self.daemons:
            await daemon.wait_ready(READY)
        await wait_reachable(self.hosts.left, self.way.right, READY)
