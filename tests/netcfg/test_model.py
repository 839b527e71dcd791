"""What a configuration asks of the kernel."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_interface, ip_network

from tunneld.config import Config, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.netcfg.model import Address, Link, Observed, Route, Wish


def wish_for(*, addresses=(), allowed=(), routes=(), **interface) -> Wish:
    return Wish.from_config(
        Config(
            name="office",
            path=None,
            tunnel=TunnelConfig("plain", "udp", None),
            interface=InterfaceConfig("tun0", "tun", tuple(map(ip_interface, addresses)), **interface),
            network=NetworkConfig(tuple(map(ip_network, routes))),
            peers=(PeerConfig("peer", (), tuple(map(ip_network, allowed))),),
        )
    )


def test_routes_follow_from_allowed_ips_but_not_from_the_default_route():
    wish = wish_for(allowed=["0.0.0.0/0", "::/0", "10.20.0.0/16", "fd00:20::/64"], routes=["10.20.5.0/24"])
    assert list(map(str, wish.routes)) == ["10.20.0.0/16", "fd00:20::/64", "10.20.5.0/24"]


def test_what_our_own_addresses_reach_needs_no_route():
    wish = wish_for(
        addresses=["192.168.0.1/24", "fd00:5::1/64"],
        allowed=["192.168.0.2/32", "192.168.0.0/24", "192.168.0.0/23", "fd00:5::2/128", "fd00:6::/64"],
        routes=["192.168.0.0/24"],
    )
    assert list(map(str, wish.routes)) == ["192.168.0.0/23", "fd00:6::/64"]


def test_a_route_that_is_listed_twice_is_made_once():
    assert wish_for(allowed=["10.20.0.0/16"], routes=["10.20.0.0/16"]).routes == (ip_network("10.20.0.0/16"),)


def test_addresses_and_routes_are_held_by_the_bridge():
    assert wish_for().holder == "tun0"
    assert wish_for(bridge="br0").holder == "br0"
    assert wish_for(mac="02:AA:00:00:00:01").mac == "02:aa:00:00:00:01"


def test_observed_answers_by_name():
    bridge = Link(3, "br0", "bridge", 1500, 1000)
    port = Link(4, "tap0", "tun", 1500, 1000, master="br0")
    one = Address("br0", ip_interface("10.0.0.1/24"), ip_network("10.0.0.0/24"))
    observed = Observed((bridge, port), (one,))
    assert observed.link("br0") is bridge
    assert observed.link("none") is None
    assert observed.ports("br0") == {"tap0"}
    assert list(observed.on("br0")) == [one]
    assert list(observed.on("tap0")) == []


def test_a_kernel_keeps_address_tags_when_any_address_has_one():
    own = Address("lo", ip_interface("::1/128"), ip_network("::1/128"), protocol=1)
    bare = Address("lo", ip_interface("127.0.0.1/8"), ip_network("127.0.0.0/8"))
    assert Observed(addresses=(bare, own)).tags_addresses
    assert not Observed(addresses=(bare,)).tags_addresses


def test_a_route_reads_as_ip_route_shows_it():
    assert str(Route(ip_network("10.0.0.0/8"), "eth0", gateway="192.0.2.1")) == "10.0.0.0/8 via 192.0.2.1 dev eth0"
    assert str(Route(ip_network("10.0.0.0/8"), "")) == "10.0.0.0/8"


def test_the_pure_part_never_loads_pyroute2():
    modules = (
        "tunneld.netcfg.model, tunneld.netcfg.plan, tunneld.netcfg.sweep, tunneld.netcfg.journal, tunneld.config"
    )
    code = f"import sys, {modules}; sys.exit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
