"""What we export is a file for the real `wg` and `wg-quick`, and what `wg` shows of it is imported as the same.

tunneld export ──> wg-quick strip ──> wg setconf ──> wireguard-go, device wgx ──> wg showconf ──> tunneld import
"""

from __future__ import annotations

import sys

import pytest

from tests.system.wireguard import needs_wireguard_go, run_wireguard_go
from tunneld.config import load

BERLIN = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PARIS = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

OFFICE = f"""\
[tunnel]
protocol = "wireguard"
private_key_file = "office.key"
listen = "[::]:51820"
[interface]
name = "wgx"
addresses = ["10.7.0.1/24", "fd07::1/64"]
mtu = 1400
[[peer]]
name = "berlin = # [Peer]"
public_key = "{BERLIN}"
preshared_key_file = "berlin.psk"
endpoint = "[2001:db8::1]:51821"
allowed_ips = ["10.7.0.2/32", "fd07::2/128", "0.0.0.0/0"]
[[peer]]
name = "paris"
public_key = "{PARIS}"
allowed_ips = ["10.7.0.3/32", "::/0"]
"""


SCRIPT = """
umask 077
cd "$RUNTIME_DIRECTORY"
wg genkey >office.key
wg genpsk >berlin.psk
"$PYTHON" -m tunneld export --wg --keys ./office.toml >wgx.conf
wg-quick strip ./wgx.conf >stripped
wg setconf wgx stripped
wg showconf wgx >shown.conf
"$PYTHON" -m tunneld import shown.conf
"$PYTHON" -m tunneld check ./shown.toml
"""


async def test_wg_takes_what_we_export_and_we_take_what_it_shows(host):
    path = host.run_dir / "office.toml"
    path.write_text(OFFICE)
    path.chmod(0o600)
    done = await host.run(["env", f"PYTHON={sys.executable}", "sh", "-exc", SCRIPT], timeout=30)
    assert done.code == 0, done.output
    ours, theirs = load(path), load(host.run_dir / "shown.toml")
    assert theirs.tunnel == ours.tunnel
    wanted, found = (
        {
            str(peer.public_key): (peer.preshared_key, peer.endpoints, peer.keepalive, set(peer.allowed_ips))
            for peer in config.peers
        }
        for config in (ours, theirs)
    )
    assert found == wanted
    assert wanted.keys() == {BERLIN, PARIS}


@pytest.fixture
async def host(lab, iproute2):
    """A host with a WireGuard device that has no settings yet."""
    needs_wireguard_go("wg-quick")
    host = lab.host("alone")
    await run_wireguard_go(host, "wgx")
    return host
