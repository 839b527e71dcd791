from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.controlchannel import (
    ECHO_TYPE,
    GOODBYE_TYPE,
    HEADER,
    HELLO_TYPE,
    MOST_MESSAGES,
    MOST_PREFIXES,
    PROBE_TYPE,
    Echo,
    Goodbye,
    Hello,
    Probe,
    compare,
    decode_untrusted,
    encode,
)
from tunneld.proto.errors import Reason

EPOCH = bytes(range(8))
NETWORKS = st.builds(
    lambda width, bits, length: ip_network(
        ((bits % 2**width).to_bytes(width // 8, "big"), min(length, width)), strict=False
    ),
    st.sampled_from([32, 128]), st.integers(0, 2**128 - 1), st.integers(0, 128),
)  # fmt: skip
HELLOS = st.builds(
    Hello,
    epoch=st.binary(min_size=8, max_size=8),
    mtu=st.integers(0, 65_535),
    mode=st.sampled_from(["tun", "tap"]),
    allowed_ips=st.lists(NETWORKS, max_size=8).map(tuple),
    complete=st.booleans(),
)
IDENTIFIERS = st.integers(0, 2**32 - 1)
MESSAGES = st.one_of(
    HELLOS,
    st.builds(Probe, IDENTIFIERS, st.integers(6, 9000)),
    st.builds(Echo, IDENTIFIERS, st.integers(0, 65_535)),
    st.just(Goodbye()),
)


def hello(**changes):
    return Hello(**{"epoch": EPOCH, "mtu": 1400, "mode": "tun", **changes})


def wire(kind, value=b""):
    return HEADER.pack(kind, len(value)) + value


@given(st.lists(MESSAGES, max_size=MOST_MESSAGES), st.integers(0, 15))
def test_what_was_encoded_is_decoded_padded_or_not(messages, padding):
    assert decode_untrusted(encode(messages) + bytes(padding)) == (messages, [])


def test_the_wire_of_each_message():
    networks = (ip_network("10.9.0.0/16"), ip_network("0.0.0.0/0"), ip_network("2001:db8::/33"))
    said = hello(mtu=1380, mode="tap", allowed_ips=networks, complete=False)
    assert encode([said]).hex(" ", 1) == (
        "00 01 00 19 00 01 02 03 04 05 06 07 05 64 01 01 04 10 0a 09 04 00 06 21 20 01 0d b8 00"
    )
    assert encode([Probe(0x01020304, 8)]).hex() == "00020008" + "01020304" + "00000000"
    assert encode([Echo(0x01020304, 1300)]).hex() == "00030006" + "01020304" + "0514"
    assert encode([Goodbye()]).hex() == "00040000"


def test_an_echo_is_never_longer_than_its_probe():
    assert len(encode([Echo(1, 6)])) == len(encode([Probe(1)]))


def test_a_hello_lists_64_prefixes_at_most_and_says_that_there_are_more():
    networks = tuple(ip_network((number << 16, 16)) for number in range(1, 100))
    (said,), faults = decode_untrusted(encode([hello(allowed_ips=networks)]))
    assert (said.allowed_ips, said.complete, faults) == (networks[:MOST_PREFIXES], False, [])
    (said,), _ = decode_untrusted(encode([hello(allowed_ips=networks[:MOST_PREFIXES])]))
    assert said.complete


def test_the_longest_hello_fits_every_path():
    networks = tuple(ip_network(((0xFD << 120) + number, 128)) for number in range(MOST_PREFIXES))
    assert len(encode([hello(allowed_ips=networks)])) < 1280 - 40 - 8 - 32 - 1


HEAD = EPOCH + b"\x05\x78\x00\x00"


@pytest.mark.parametrize(
    "bad",
    [
        wire(HELLO_TYPE, HEAD[:-1]),
        wire(HELLO_TYPE, EPOCH + b"\x05\x78\x02\x00"),  # no such mode
        wire(HELLO_TYPE, HEAD + b"\x04"),  # a family without a length
        wire(HELLO_TYPE, HEAD + b"\x05\x08\x0a"),  # no such family
        wire(HELLO_TYPE, HEAD + b"\x04\x21" + bytes(5)),  # longer than an address
        wire(HELLO_TYPE, HEAD + b"\x04\x10\x0a"),  # address cut short
        wire(HELLO_TYPE, HEAD + b"\x04\x0f\x0a\x09"),  # bits behind the prefix
        wire(PROBE_TYPE, bytes(5)),
        wire(ECHO_TYPE, bytes(5)),
    ],
)
def test_a_malformed_message_spoils_none_but_itself(bad):
    body = encode([Probe(1)]) + bad + encode([Echo(2, 6)])
    assert decode_untrusted(body) == ([Probe(1), Echo(2, 6)], [Reason.MALFORMED])


def test_a_hello_with_more_prefixes_than_anybody_may_list_is_refused():
    body = wire(HELLO_TYPE, HEAD + b"\x04\x00" * (MOST_PREFIXES + 1)) + wire(GOODBYE_TYPE)
    assert decode_untrusted(body) == ([Goodbye()], [Reason.OVERSIZED])


def test_later_versions_may_say_more():
    body = wire(GOODBYE_TYPE, b"why") + wire(ECHO_TYPE, bytes(9)) + wire(5) + wire(0xFFFF, b"x") + wire(0, b"padding")
    assert decode_untrusted(body) == ([Goodbye(), Echo(0, 0)], [Reason.UNKNOWN_CONTROL] * 2)
    flags = wire(HELLO_TYPE, EPOCH + b"\x05\x78\x00\xfe")
    assert decode_untrusted(flags) == ([hello()], [])


def test_whole_messages_before_a_cut_one_stand():
    body = encode([Probe(7), Echo(8, 6)])
    assert decode_untrusted(body[:-1]) == ([Probe(7)], [Reason.TRUNCATED])


def test_a_body_gives_a_bounded_number_of_messages():
    messages, faults = decode_untrusted(wire(GOODBYE_TYPE) * 16_000)
    assert (len(messages), faults) == (MOST_MESSAGES, [Reason.OVERSIZED])
    messages, faults = decode_untrusted(wire(9) * 16_000)
    assert (messages, len(faults)) == ([], MOST_MESSAGES + 1)


def test_ends_that_fit_together_have_no_differences():
    ours = hello(allowed_ips=(ip_network("0.0.0.0/0"), ip_network("10.0.0.0/8")))
    theirs = hello(epoch=bytes(8), allowed_ips=(ip_network("0.0.0.0/0"), ip_network("10.0.0.2/32")))
    assert compare(ours, theirs) == []


def test_every_field_that_differs_is_named_with_its_remedy():
    networks = tuple(ip_network(f"10.{number}.0.0/16") for number in range(5))
    ours = hello(allowed_ips=networks)
    theirs = hello(mtu=1380, mode="tap", allowed_ips=(*networks[1:], ip_network("fd00::/8")))
    assert [(difference.field, difference.sentence) for difference in compare(ours, theirs)] == [
        ("mode", 'mode is "tun" here and "tap" at the peer; set both alike'),
        ("mtu", "mtu is 1400 here and 1380 at the peer; set both to 1380"),
        (
            "allowed_ips",
            "allowed_ips has 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16 and 1 more at both ends, each for the other;"
            " remove it where the network is",
        ),
    ]
    (difference,) = compare(hello(allowed_ips=networks[:1]), hello(allowed_ips=networks[:1]))
    assert "has 10.0.0.0/16 at both ends" in difference.sentence
