from ipaddress import ip_network

import pytest

from tests.proto.keys import numbers
from tunneld.proto.controlchannel import Hello
from tunneld.proto.handshake import Local
from tunneld.proto.profile import WIREGUARD
from tunneld.proto.replay import ReplayWindow
from tunneld.proto.session import Session
from tunneld.proto.station import Indices, Station


def session(index):
    return Session(
        WIREGUARD, sending_key=bytes(32), receiving_key=bytes(32), local_index=index, remote_index=0,
        initiator=True, born=0.0, received=ReplayWindow(),
    )  # fmt: skip


def drawn(*indices):
    """A source of randomness that gives these indices."""
    left = [index.to_bytes(4, "little") for index in indices]
    return lambda count: left.pop(0)


def station(random=None, mode="tun"):
    return Station(
        Local(WIREGUARD, bytes(range(32))),
        mode=mode,
        random=random or numbers(1),
        stamp=lambda: bytes(12),
        jitter=lambda: 0.5,
        control=False,
    )


def test_an_index_belongs_to_a_handshake_and_then_to_its_session():
    indices, ours = Indices(drawn(7)), object()
    assert indices.reserve(ours) == 7
    assert indices.find_untrusted(7) == (ours, None)
    given = session(7)
    indices.bind(given)
    assert indices.find_untrusted(7) == (ours, given)
    indices.free(7)
    assert indices.find_untrusted(7) is None
    assert len(indices) == 0


def test_an_index_in_use_is_drawn_again():
    indices = Indices(drawn(7, 7, 7, 8, 7))
    assert [indices.reserve(None), indices.reserve(None)] == [7, 8]
    indices.free(7)
    assert indices.reserve(None) == 7
    assert len(indices) == 2


def test_an_index_is_freed_once():
    indices = Indices(drawn(7))
    indices.reserve(None)
    indices.free(7)
    with pytest.raises(KeyError):
        indices.free(7)


def test_indices_are_spread_over_all_32_bits():
    indices = Indices(numbers(1))
    drawn_ones = [indices.reserve(None) for _ in range(1000)]
    assert len(set(drawn_ones)) == 1000
    for bit in range(32):
        assert 400 < sum(index >> bit & 1 for index in drawn_ones) < 600


def test_the_boot_epoch_is_drawn_once_for_all_peers():
    ours = station()
    first, second = ours.hello(()), ours.hello((ip_network("10.0.0.0/8"),))
    assert first.epoch == second.epoch == numbers(1)(8)
    assert station(numbers(2)).hello(()).epoch != first.epoch


def test_hello_tells_the_settings_of_now():
    ours = station(mode="tap")
    ours.mtu = 1400
    network = ip_network("10.0.0.0/8")
    assert ours.hello((network,)) == Hello(ours.epoch, 1400, "tap", (network,))
    ours.mtu = 70_000
    assert ours.hello(()).mtu == 65_535


def test_of_many_events_nobody_asks_for_the_newest_are_kept():
    ours = station()
    ours.events.extend(range(12_000))
    assert list(ours.events) == list(range(2_000, 12_000))
