import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.proto.errors import Reason
from tunneld.proto.plain import PlainDatagramTunnel, PlainTunnel, is_frame, is_ip, opener_rank

PACKETS = st.lists(st.binary(min_size=1, max_size=1500), max_size=30)


@given(PACKETS)
def test_on_a_stream_a_message_is_a_packet(packets):
    tunnel = PlainTunnel(mode="tun", max_packet=1500)
    messages = tunnel.to_messages(packets)
    assert list(map(bytes, tunnel.to_packets_untrusted(map(memoryview, messages)))) == packets
    assert not tunnel.drops


@given(PACKETS)
def test_in_datagrams_packets_share_a_message_and_come_out_in_order(packets):
    tunnel = PlainDatagramTunnel(mode="tun", max_packet=1500)
    messages = tunnel.to_messages(packets)
    assert list(map(bytes, tunnel.to_packets_untrusted(map(memoryview, messages)))) == packets
    assert not tunnel.drops


def test_small_packets_that_wait_together_share_one_datagram():
    assert len(PlainDatagramTunnel(mode="tun", max_packet=1500).to_messages([bytes(64)] * 16)) == 1


def test_a_lone_packet_goes_out_alone():
    assert PlainDatagramTunnel(mode="tun", max_packet=1500).to_messages([b"ping"]) == [b"\x00\x04ping"]


@pytest.mark.parametrize("kind", [PlainTunnel, PlainDatagramTunnel])
def test_what_a_length_cannot_say_is_a_counted_drop(kind):
    tunnel = kind(mode="tun", max_packet=65_539)
    messages = tunnel.to_messages([b"before", bytes(65_536), bytes(65_535), bytes(65_539)])
    packets = tunnel.to_packets_untrusted(map(memoryview, messages))
    assert list(map(len, packets)) == [6, 65_535]
    assert tunnel.drops == {Reason.OVERSIZED: 2}


@pytest.mark.parametrize(
    "tunnel", [PlainTunnel(mode="tun", max_packet=1400), PlainDatagramTunnel(mode="tun", max_packet=1400)]
)
def test_what_the_device_cannot_take_is_a_counted_drop(tunnel):
    datagram = b"\x00\x00" + b"\x05\x79" + bytes(1401) + b"\x05\x78" + bytes(1400) + b"\x00\x01x"
    messages = [datagram] if isinstance(tunnel, PlainDatagramTunnel) else [b"", bytes(1401), bytes(1400), b"x"]
    packets = tunnel.to_packets_untrusted(map(memoryview, messages))
    assert list(map(len, packets)) == [1400, 1]
    assert tunnel.drops == {Reason.EMPTY: 1, Reason.OVERSIZED: 1}


def test_a_cut_datagram_is_counted_and_its_whole_packets_stand():
    tunnel = PlainDatagramTunnel(mode="tun", max_packet=1400)
    assert list(map(bytes, tunnel.to_packets_untrusted([memoryview(b"\x00\x02ok\x00\x09cut")]))) == [b"ok"]
    assert tunnel.drops == {Reason.TRUNCATED: 1}


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_datagram_gives_packets_or_counts_and_nothing_else(datagrams):
    tunnel = PlainDatagramTunnel(mode="tun", max_packet=100)
    for packet in tunnel.to_packets_untrusted(map(memoryview, datagrams)):
        assert 1 <= len(packet) <= 100


IPV4 = bytes.fromhex("45000054000040004001f6530a0900010a090002") + bytes(64)
IPV6 = bytes.fromhex("6000000000083a40") + bytes(32) + b"pingpong"
ARP = bytes.fromhex("ffffffffffff0200000000010806") + bytes(28)
FRAME = bytes.fromhex("0200000000020200000000010800") + IPV4


@pytest.mark.parametrize(
    ("mode", "ours", "others"), [("tun", (IPV4, IPV6), (ARP, FRAME)), ("tap", (ARP, FRAME), (IPV4, IPV6))]
)
def test_the_packets_of_the_other_mode_are_told_from_ours(mode, ours, others):
    tunnel = PlainTunnel(mode=mode, max_packet=1500)
    assert list(map(bytes, tunnel.to_packets_untrusted(map(memoryview, (*ours, *others))))) == list(ours)
    assert tunnel.drops == {Reason.WRONG_MODE: len(others)}


@given(
    st.binary(min_size=12, max_size=12),
    st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00"]),
    st.binary(max_size=1500),
)
def test_no_frame_of_a_host_is_taken_for_an_ip_packet(addresses, ethertype, payload):
    assert not is_ip(memoryview(addresses + ethertype + payload))


@given(st.binary(min_size=1, max_size=80))
def test_whatever_begins_like_ip_is_no_frame(packet):
    assert not is_frame(memoryview(bytes([0x40 | packet[0] & 0x2F]) + packet))


def test_openers_are_ordered_by_number_not_by_text():
    ordered = [("9.0.0.1", 9), ("10.0.0.1", 2), ("10.0.0.1", 10), ("fe80::1%eth0", 1, 0, 3), ("fe80::2", 0, 0, 0)]
    assert sorted(ordered[::-1], key=opener_rank) == ordered


def test_packets_go_over_the_link_there_is_and_are_dropped_without_one():
    tunnel, link, other = PlainTunnel(mode="tun", max_packet=1500), object(), object()
    tunnel.enqueue([b"E1", b"E2"], 0.0)
    assert tunnel.poll_transmit(0.0) is None
    assert tunnel.drops == {Reason.NO_LINK: 2}
    tunnel.attach(link)
    tunnel.enqueue([b"E1", b"E2"], 0.0)
    assert tunnel.poll_transmit(0.0) == (link, [b"E1", b"E2"])
    assert tunnel.poll_transmit(0.0) is None
    tunnel.close(other)
    tunnel.enqueue([b"E3"], 0.0)
    assert tunnel.poll_transmit(0.0) == (link, [b"E3"])
    tunnel.close(link)
    tunnel.enqueue([b"E4"], 0.0)
    assert tunnel.poll_transmit(0.0) is None


def test_what_comes_over_a_link_is_for_the_device_and_nothing_is_ever_due():
    tunnel, link = PlainTunnel(mode="tun", max_packet=1500), object()
    assert list(tunnel.receive_untrusted(link, [memoryview(b"E1")], 0.0)) == [b"E1"]
    tunnel.unblocked(link)
    tunnel.handle_timeout(1e9)
    assert tunnel.poll_timeout() is None
