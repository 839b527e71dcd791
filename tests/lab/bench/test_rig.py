from __future__ import annotations

from pathlib import Path

import pytest

from tunneld.config import load
from tunneld.lab.bench.rig import VARIANTS, Tunnel, Variant
from tunneld.lab.ping import ping


def test_every_transport_and_mode_is_measured_once():
    assert [str(variant) for variant in VARIANTS] == [
        "plain tcp tun", "plain tcp tap", "plain udp tun", "plain udp tap",
    ]  # fmt: skip


@pytest.mark.parametrize("endpoint", ["", "192.0.2.2"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_configuration_says_what_the_variant_says(variant, endpoint, tmp_path: Path):
    file = tmp_path / "bench3.toml"
    file.write_text(variant.text(3, "10.99.3.1", "10.99.3.2", endpoint))
    config = load(file)
    assert (config.tunnel.protocol, config.tunnel.transport) == (variant.protocol, variant.transport)
    assert (config.interface.mode, config.interface.name) == (variant.mode, "bench3")
    assert [str(one) for one in config.peer.endpoints] == ([f"{endpoint}:55558"] if endpoint else [])


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_tunnel_carries_packets_once_it_is_up(pair):
    tunnel = Tunnel.start(Variant("plain", "udp", "tap"), 0, pair)
    await tunnel.wait_up()
    assert len((await ping(pair.right, tunnel.way.left)).times) == 3
    assert tunnel.way.name == "plain udp tap"
    assert [command(pid)[-2:] for pid in tunnel.way.pids] == [
        ["run", str(host.run_dir / "bench0.toml")] for host in (pair.right, pair.left)
    ]


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
