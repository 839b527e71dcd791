"""Longest prefixes, judged by asking every prefix in turn."""

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.allowedips import AllowedIPs

NOWHERE = {4: ip_address("203.0.113.99"), 6: ip_address("2001:db8:ffff::99")}


def packet(source, destination):
    """The shortest IP packet between two addresses."""
    if source.version == 4:
        return b"\x45" + bytes(11) + source.packed + destination.packed
    return b"\x60" + bytes(7) + source.packed + destination.packed


def both_ways(table, address):
    """Who gets packets for `address` and who may send from it, which must be the same peer."""
    address = ip_address(address)
    other = NOWHERE[address.version]
    to, fro = table.destination(packet(other, address)), table.source_untrusted(packet(address, other))
    assert to == fro
    assert table.destination(memoryview(bytearray(packet(other, address)))) == to
    return to


def naive(networks, address):
    """Ask each prefix whether it holds the address; keep the longest that does."""
    holding = [(network.prefixlen, peer) for network, peer in networks.items() if address in network]
    return max(holding)[1] if holding else None


def filled(**peers):
    table = AllowedIPs()
    for peer, networks in peers.items():
        table.insert(map(ip_network, networks.split()), peer)
    return table


OFFICES = {
    "hub": "0.0.0.0/0 ::/0",
    "berlin": "10.8.0.0/13 10.9.9.128/25 2001:db8::/32",
    "paris": "10.9.0.0/16 10.9.9.129/32 2001:db8:0:40::/58",
    "phone": "172.20.3.7/32 2001:db8:0:41::7/128",
}


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.8.0.0", "berlin"), ("10.15.255.255", "berlin"), ("10.16.0.0", "hub"), ("10.7.255.255", "hub"),
        ("10.9.0.1", "paris"), ("10.9.9.127", "paris"), ("10.9.9.128", "berlin"), ("10.9.9.129", "paris"),
        ("10.9.9.130", "berlin"), ("10.9.10.0", "paris"), ("10.10.0.0", "berlin"),
        ("172.20.3.7", "phone"), ("172.20.3.6", "hub"), ("0.0.0.0", "hub"), ("255.255.255.255", "hub"),
        ("2001:db8::1", "berlin"), ("2001:db8:0:40::1", "paris"), ("2001:db8:0:7f:ffff::", "paris"),
        ("2001:db8:0:80::", "berlin"), ("2001:db8:0:41::7", "phone"), ("2001:db8:0:41::6", "paris"),
        ("2001:db9::", "hub"), ("::", "hub"), ("ffff::", "hub"),
    ],
)  # fmt: skip
def test_the_longest_prefix_wins(address, peer):
    assert both_ways(filled(**OFFICES), address) == peer


# What the kernel's own test of its trie inserts, asks and expects (drivers/net/wireguard/selftest/allowedips.c).
KERNEL = [
    ("a", "192.168.4.0/24"), ("b", "192.168.4.4/32"), ("c", "192.168.0.0/16"), ("d", "192.95.5.64/27"),
    ("c", "192.95.5.65/27"), ("d", "2607:5300:6000:6b00::c05f:543/128"), ("c", "2607:5300:6000:6b00::/64"),
    ("e", "0.0.0.0/0"), ("e", "::/0"), ("f", "::/0"), ("g", "2404:6800::/32"),
    ("h", "2404:6800:4004:800:dead:beef:dead:beef/64"), ("a", "2404:6800:4004:800:dead:beef:dead:beef/128"),
    ("c", "2444:6800:40e4:800:deae:beef:def:beef/128"), ("b", "2444:6800:f0e4:800:eeae:beef::/98"),
    ("g", "64.15.112.0/20"), ("h", "64.15.123.211/25"), ("a", "10.0.0.0/25"), ("b", "10.0.0.128/25"),
    ("a", "10.1.0.0/30"), ("b", "10.1.0.4/30"), ("c", "10.1.0.8/29"), ("d", "10.1.0.16/29"),
]  # fmt: skip
KERNEL_ANSWERS = {
    "192.168.4.20": "a", "192.168.4.0": "a", "192.168.4.4": "b", "192.168.200.182": "c", "192.95.5.68": "c",
    "192.95.5.96": "e", "2607:5300:6000:6b00::c05f:543": "d", "2607:5300:6000:6b00::c02e:1ee": "c",
    "2607:5300:6000:6b01::": "f", "2404:6800:4004:806::1006": "g", "2404:6800:4004:806:0:1234:0:5678": "g",
    "2404:67ff:4004:806:0:1234:0:5678": "f", "2404:6801:4004:806:0:1234:0:5678": "f",
    "2404:6800:4004:800:0:1234:0:5678": "h", "2404:6800:4004:800::": "h",
    "2404:6800:4004:800:1010:1010:1010:1010": "h", "2404:6800:4004:800:dead:beef:dead:beef": "a",
    "64.15.116.26": "g", "64.15.127.3": "g", "64.15.123.1": "g",
    "64.15.123.128": "h", "64.15.123.129": "h", "10.0.0.52": "a", "10.0.0.220": "b", "10.1.0.2": "a", "10.1.0.6": "b",
    "10.1.0.10": "c", "10.1.0.20": "d",
}  # fmt: skip


def test_the_kernel_would_route_alike():
    assert (len(KERNEL), len(KERNEL_ANSWERS)) == (23, 28)
    table = AllowedIPs()
    for peer, text in KERNEL:
        table.insert([ip_network(text, strict=False)], peer)
    assert {address: both_ways(table, address) for address in KERNEL_ANSWERS} == KERNEL_ANSWERS

    alone = ["1.0.0.0", "64.0.0.0", "128.0.0.0", "192.0.0.0", "255.0.0.0"]
    table.insert(map(ip_network, alone), "a")
    assert {both_ways(table, address) for address in alone} == {"a"}
    table.remove("a")
    assert {both_ways(table, address) for address in alone} == {"e"}


def test_a_prefix_moves_with_its_last_insert_and_the_rest_stays():
    table = filled(a="10.1.0.0/16 10.2.0.0/16", b="10.1.0.0/16 10.1.2.0/24")
    assert both_ways(table, "10.1.0.1") == "b"
    assert both_ways(table, "10.2.0.1") == "a"
    assert both_ways(table, "10.1.2.1") == "b"


def test_a_removed_peer_owns_nothing_and_shorter_prefixes_show_again():
    table = filled(a="0.0.0.0/0 1.0.0.0/32 128.0.0.0/1 ::/0", b="10.0.0.0/8", c="10.1.0.0/16")
    table.remove("c")
    assert both_ways(table, "10.1.0.1") == "b"
    table.remove("a")
    for address in ("1.0.0.0", "128.0.0.0", "255.0.0.0", "::1"):
        assert both_ways(table, address) is None
    table.remove("stranger")
    assert both_ways(table, "10.0.0.1") == "b"


@pytest.mark.parametrize(
    "junk", [b"", b"\x45", b"\x45" + bytes(18), b"\x60" + bytes(38), b"\x50" + bytes(60), bytes(60)]
)
def test_what_is_no_ip_packet_belongs_to_nobody(junk):
    table = filled(**OFFICES)
    assert table.destination(junk) is None
    assert table.source_untrusted(junk) is None


def test_who_owns_every_address_need_not_be_looked_up():
    assert filled(a="0.0.0.0/0 ::/0 10.0.0.0/8").sole() == "a"
    assert filled(a="0.0.0.0/0 ::/0", b="10.0.0.0/8").sole() is None
    assert filled(a="0.0.0.0/0").sole() is None
    assert filled(a="10.0.0.0/8 fd00::/8").sole() is None
    assert filled().sole() is None


# Few bits, so that prefixes nest and collide; moved to either end of the address.
ADDRESSES = st.one_of(
    st.builds(lambda high, low: IPv4Address(high << 28 | low), st.integers(0, 15), st.integers(0, 15)),
    st.builds(lambda high, low: IPv6Address(high << 124 | low), st.integers(0, 15), st.integers(0, 15)),
)
LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 5, 27, 28, 29, 30, 31, 32, 125, 127, 128])
NETWORKS = st.builds(
    lambda address, length: ip_network((address, min(length, address.max_prefixlen)), strict=False),
    ADDRESSES, LENGTHS,
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.lists(NETWORKS, max_size=4) | st.none()), max_size=20)


@given(STEPS, st.lists(ADDRESSES, min_size=1, max_size=30))
def test_any_history_of_inserts_and_removals_agrees_with_the_model(steps, addresses):
    table, model = AllowedIPs(), {}
    for peer, networks in steps:
        if networks is None:
            table.remove(peer)
            model = {network: owner for network, owner in model.items() if owner != peer}
        else:
            table.insert(networks, peer)
            model.update(dict.fromkeys(networks, peer))
    for address in addresses:
        assert both_ways(table, address) == naive(model, address)


def random_queries(count, seed):
    """Prefixes of all lengths at random; half of the addresses lie inside one of them."""
    choose = random.Random(seed)
    model = {}
    for _ in range(300):
        width, kind = choose.choice([(32, IPv4Address), (128, IPv6Address)])
        address, length = kind(choose.getrandbits(width)), choose.randint(1, width)
        model[ip_network((address, length), strict=False)] = choose.choice("abcdefgh")
    table = AllowedIPs()
    for peer in "abcdefgh":
        table.insert([network for network, owner in model.items() if owner == peer], peer)
    # The model asks all its prefixes, so it works on plain numbers.
    spans = [
        (network.version, int(network.network_address), int(network.broadcast_address), network.prefixlen, peer)
        for network, peer in model.items()
    ]
    networks = list(model)
    for number in range(count):
        network = choose.choice(networks)
        bits = network.max_prefixlen
        free = bits if number % 2 else bits - network.prefixlen
        address = choose.getrandbits(free) if free else 0
        address |= 0 if number % 2 else int(network.network_address)
        holding = [(length, peer) for version, first, last, length, peer in spans
                   if version == network.version and first <= address <= last]  # fmt: skip
        expected = max(holding)[1] if holding else None
        kind = IPv4Address if bits == 32 else IPv6Address
        assert table.destination(packet(NOWHERE[network.version], kind(address))) == expected


@pytest.mark.volume
def test_random_addresses_agree_with_the_model():
    random_queries(20_000, seed=3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_random_addresses_agree_with_the_model():
    random_queries(1_000_000, seed=4)
