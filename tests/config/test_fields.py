from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.config import Endpoint, fields

HOSTS = [
    "10.0.0.1/24",
    "10.0.0.254/24",
    "10.0.0.0/31",
    "10.0.0.1/31",
    "10.0.0.0/32",
    "10.0.0.255/32",
    "10.0.0.255/16",
    "fd00::1/64",
    "fd00::ffff:ffff:ffff:ffff/64",
    "fd00::/127",
    "fd00::1/127",
    "fd00::/128",
    "fe80::1/64",
]
NO_HOSTS = [
    ("10.0.0.0/24", "10.0.0.0/24 is the network address of its subnet; take another, such as 10.0.0.1/24"),
    ("10.0.0.255/24", "10.0.0.255/24 is the broadcast address of its subnet; take another, such as 10.0.0.254/24"),
    ("10.0.0.3/30", "10.0.0.3/30 is the broadcast address of its subnet; take another, such as 10.0.0.2/30"),
    ("fd00::/126", "fd00::/126 is the network address of its subnet; take another, such as fd00::1/126"),
    ("10.0.0.1", "10.0.0.1 has no prefix length; write 10.0.0.1/32 for that address alone"),
    ("10.0.0.1/0", "10.0.0.1/0 calls the whole world a neighbour; write the length of its subnet, such as /24"),
    ("10.0.0.1/33", '"10.0.0.1/33" is not an address; write for example "192.168.0.1/24"'),
    ("10.0.0.1/255.255.255.0", '"10.0.0.1/255.255.255.0" is not an address; write for example "192.168.0.1/24"'),
    ("fe80::1%eth0/64", '"fe80::1%eth0/64" is not an address; write for example "192.168.0.1/24"'),
    ("224.0.0.1/24", '224.0.0.1/24 cannot be the address of a host; write for example "192.168.0.1/24"'),
    ("127.0.0.1/8", '127.0.0.1/8 cannot be the address of a host; write for example "192.168.0.1/24"'),
    ("::/128", '::/128 cannot be the address of a host; write for example "192.168.0.1/24"'),
    ("", '"" is not an address; write for example "192.168.0.1/24"'),
    (10, 'expected text, got the number 10; write "10"'),
    ([], "expected text, got a list; put it in quotes"),
]
PREFIXES = ["10.0.0.0/24", "10.0.0.5/32", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::1/128"]
NO_PREFIXES = [
    ("10.0.0.5/24", "10.0.0.5/24 has host bits set; did you mean 10.0.0.0/24 or 10.0.0.5/32?"),
    ("fd00::1/64", "fd00::1/64 has host bits set; did you mean fd00::/64 or fd00::1/128?"),
    ("10.0.0.0/33", '"10.0.0.0/33" is not a prefix; write for example "192.168.0.0/24"'),
    ("10.0.0.0", "10.0.0.0 has no prefix length; write 10.0.0.0/32 for that address alone"),
    ("\x1b[2J", r'"\x1b[2J" is not a prefix; write for example "192.168.0.0/24"'),
    (True, "expected text, got true; put it in quotes"),
]
ENDPOINTS = [
    ("192.0.2.1:55555", Endpoint("192.0.2.1", 55555)),
    ("[2001:db8::1]:1", Endpoint("2001:db8::1", 1)),
    ("[fe80::1%eth0]:65535", Endpoint("fe80::1%eth0", 65535)),
    ("vpn.example.org:55555", Endpoint("vpn.example.org", 55555)),
    ("home_server.:443", Endpoint("home_server.", 443)),
]
NO_ENDPOINTS = [
    ("vpn.example.org", '"vpn.example.org" has no port; write vpn.example.org:55555'),
    ("vpn.example.org:", '"vpn.example.org:" has no port; write vpn.example.org:55555'),
    ("[2001:db8::1]", '"[2001:db8::1]" has no port; write [2001:db8::1]:55555'),
    ("2001:db8::1:51820", '"2001:db8::1:51820": write [2001:db8::1]:51820'),
    ("2001:db8::1", '"2001:db8::1": write [2001:db8::1]:55555'),
    ("a:b:c", '"a:b:c": write host:port, with an IPv6 address in brackets'),
    ("[vpn]:1", '"[vpn]:1": write [ADDRESS]:PORT, for example [2001:db8::1]:55555'),
    ("[2001:db8::1:1", '"[2001:db8::1:1": write [ADDRESS]:PORT, for example [2001:db8::1]:55555'),
    ("[::1]1", '"[::1]1": write [ADDRESS]:PORT, for example [2001:db8::1]:55555'),
    ("192.0.2.1:0", 'port "0": must be 1..65535'),
    ("192.0.2.1:70000", 'port "70000": must be 1..65535'),
    ("192.0.2.1:0123456", 'port "0123456": must be 1..65535'),
    ("192.0.2.1:http", 'port "http": must be 1..65535'),
    ("192.0.2.1:٣", 'port "٣": must be 1..65535'),
    ("300.0.2.1:1", '"300.0.2.1" is not an IPv4 address; write four numbers of 0..255'),
    ("-a.org:1", '"-a.org" is neither an address nor a host name; write for example vpn.example.org'),
    ("a b:1", '"a b" is neither an address nor a host name; write for example vpn.example.org'),
    ("bücher.example:1", '"bücher.example" is neither an address nor a host name; write for example vpn.example.org'),
    ("", '"" is neither an address nor a host name; write for example vpn.example.org'),
    ("0.0.0.0:1", "0.0.0.0 is not the address of one host; write that of the peer"),
    ("[ff02::1]:1", "ff02::1 is not the address of one host; write that of the peer"),
    ("255.255.255.255:1", "255.255.255.255 is not the address of one host; write that of the peer"),
]
NO_LISTEN = [
    (55555, 'expected ADDRESS:PORT; write "[::]:55555" for every address of this host'),
    (":55555", '":55555" has no address; write "[::]:55555" for every address of this host'),
    ("55555", '"55555" has no address; write "[::]:55555" for every address of this host'),
    ("vpn.example.org:1", '"vpn.example.org" is a name; write an address, for example [::]:1'),
    ("0.0.0.0", '"0.0.0.0" has no port; write 0.0.0.0:55555'),
    ("239.0.0.1:1", "239.0.0.1 is a group address; write one of this host, or [::]:1"),
    (True, "expected text, got true; put it in quotes"),
]
TOO_LONG = 'at most 15 characters, no "/" and no blank'
NO_INTERFACES = [
    ("", 'is empty; write for example "tun0"'),
    ("sixteen-letters!", f'"sixteen-letters!": {TOO_LONG}'),
    ("ääääääää", f'"ääääääää": {TOO_LONG}'),
    ("a/b", f'"a/b": {TOO_LONG}'),
    ("a b", f'"a b": {TOO_LONG}'),
    ("a\n", rf'"a\n": {TOO_LONG}'),
    ("tün", '"tün": only ASCII letters, digits, ".", "-" and "_"'),
    ("tun%d", '"tun%d": only ASCII letters, digits, ".", "-" and "_"'),
    ("a$b", '"a$b": only ASCII letters, digits, ".", "-" and "_"'),
    ("eth0:1", '"eth0:1": only ASCII letters, digits, ".", "-" and "_"'),
    ("..", '".." is reserved by the kernel; choose another, for example "tun0"'),
    ("all", '"all" is reserved by the kernel; choose another, for example "tun0"'),
    (0, 'expected text, got the number 0; write "0"'),
]
NO_MACS = [
    ("02:00:00:00:00", '"02:00:00:00:00" is not a MAC address; write for example "02:00:00:00:00:01"'),
    ("03:00:00:00:00:01", "03:00:00:00:00:01 is a group address; make the first byte even, for example 02"),
    ("00:00:00:00:00:00", '00:00:00:00:00:00 is no address; write for example "02:00:00:00:00:01"'),
]
PUBLIC = "L+V9o0fNYkMVKNqsX7spBzD/9oSvxM/C7ZCZX1jLO3Q="
PUBKEY = "write what tunneld pubkey prints from the key of the peer"
NO_NAMESPACES = ["", "a/b", "..", "a\0b"]
NO_PEER_NAMES = ["", " a", "a\x1b", "x" * 65]


@pytest.mark.parametrize("written", HOSTS)
def test_an_address_that_a_host_can_have(written):
    assert fields.address(written) == ip_interface(written)


@pytest.mark.parametrize("written", PREFIXES)
def test_a_prefix(written):
    assert fields.prefix(written) == ip_network(written)


@pytest.mark.parametrize(("written", "endpoint"), ENDPOINTS)
def test_an_endpoint(written, endpoint):
    assert fields.endpoint(written) == endpoint


@pytest.mark.parametrize("written", ["[::]:55555", "0.0.0.0:55555", "192.0.2.1:1", "[fe80::1%eth0]:1"])
def test_a_place_to_listen(written):
    assert str(fields.listen(written)) == written


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *((fields.address, *case) for case in NO_HOSTS),
        *((fields.prefix, *case) for case in NO_PREFIXES),
        *((fields.endpoint, *case) for case in NO_ENDPOINTS),
        *((fields.listen, *case) for case in NO_LISTEN),
        *((fields.interface_name, *case) for case in NO_INTERFACES),
        *((fields.mac, *case) for case in NO_MACS),
        (fields.mtu, 575, fields.MTU_RULE),
        (fields.mtu, 65_476, fields.MTU_RULE),
        (fields.mtu, "1420", 'expected a number, got "1420"; write it without quotes'),
        (fields.mtu, 1420.0, "expected a whole number, got the number 1420.0; write digits only"),
        (fields.mtu, True, "expected a whole number, got true; write digits only"),
        (fields.txqueuelen, 0, "must be 1..65535"),
        (fields.flag, "true", 'expected true or false, got "true"; write it without quotes'),
        (fields.transport, "auto", 'this version cannot choose between transports; write "udp" or "tcp"'),
        (fields.transport, "upd", '"upd" is not known; did you mean "udp"?'),
        (fields.transport, "quic", '"quic" is not known; write "udp" or "tcp"'),
        (fields.keepalive, 0.1, "expected a whole number, got the number 0.1; write digits only"),
        (fields.keepalive, -1, "must be 1..65535 seconds, or 0 for none"),
        (fields.keepalive, 65_536, "must be 1..65535 seconds, or 0 for none"),
        (fields.public_key, "", f"empty; {PUBKEY}"),
        (fields.public_key, "A" * 44, f'the last of the 44 characters must be "="; {PUBKEY}'),
        (fields.public_key, "A" * 43 + "=", f"not a usable key: it is of low order; {PUBKEY}"),
        (fields.public_key, ["x"], "expected text, got a list; put it in quotes"),
        (fields.host, "fe80::zz", '"fe80::zz" is not an IPv6 address'),
    ],
)
def test_a_fault_says_what_is_wrong_and_what_to_do(field, value, message):
    with pytest.raises(fields.Fault) as fault:
        field(value)
    assert str(fault.value) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [*((fields.namespace, name) for name in NO_NAMESPACES), *((fields.peer_name, name) for name in NO_PEER_NAMES)],
)
def test_a_name_that_is_none(field, value):
    with pytest.raises(fields.Fault):
        field(value)


def test_values_that_will_do():
    assert fields.interface_name("fifteen-letters") == "fifteen-letters"
    assert fields.mac("02:AB:00:00:00:01") == "02:ab:00:00:00:01"
    assert (fields.mtu(576), fields.mtu(65_475)) == (576, 65_475)
    assert fields.namespace("work") == "work"
    assert fields.namespace("/proc/1/ns/net") == "/proc/1/ns/net"
    assert fields.peer_name("Büro Berlin") == "Büro Berlin"
    assert (fields.keepalive(0), fields.keepalive(65_535)) == (0, 65_535)
    assert str(fields.public_key(f"{PUBLIC}\n")) == PUBLIC
    assert fields.choice("repair", "stop")("stop") == "stop"
    assert fields.flag(False) is False


FIELDS = (
    fields.address,
    fields.prefix,
    fields.endpoint,
    fields.listen,
    fields.interface_name,
    fields.namespace,
    fields.peer_name,
    fields.mac,
    fields.mtu,
    fields.flag,
    fields.keepalive,
    fields.public_key,
    fields.transport,
)
VALUES = st.one_of(
    st.text(),
    st.text(alphabet="0123456789abcdef:.[]/%-"),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)


@given(st.sampled_from(FIELDS), VALUES)
def test_any_value_is_taken_or_refused_with_one_line(field, value):
    try:
        field(value)
    except fields.Fault as fault:
        message = str(fault)
    else:
        return
    assert message.isprintable()
