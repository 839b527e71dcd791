import pytest

from tests.proto.keys import PSK
from tunneld.proto.controlchannel import Hello
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.events import Compared, Restarted
from tunneld.proto.handshake import Remote
from tunneld.proto.payload import BarePayload
from tunneld.proto.peer import Peer
from tunneld.proto.tai64n import INITIATION_INTERVAL, NEVER, stamp


def peer():
    return Peer("berlin", Remote(bytes(range(32)), PSK), BarePayload(max_packet=1400))


def refusal(of, timestamp, now):
    with pytest.raises(BadPacket) as caught:
        of.admit_initiation_untrusted(timestamp, now)
    return caught.value.reason


def test_the_representation_names_the_peer_and_no_secret():
    assert repr(peer()) == "Peer('berlin')"


def test_timestamps_only_grow():
    ours = peer()
    assert ours.last_stamp == NEVER
    ours.admit_initiation_untrusted(stamp(1000.0), 0.0)
    assert refusal(ours, stamp(1000.0), 1.0) is Reason.OLD_TIMESTAMP
    assert refusal(ours, stamp(999.0), 2.0) is Reason.OLD_TIMESTAMP
    assert ours.last_stamp == stamp(1000.0)
    ours.admit_initiation_untrusted(stamp(1000.1), 3.0)
    assert ours.last_stamp == stamp(1000.1)


def test_initiations_come_no_closer_than_20_ms():
    ours = peer()
    ours.admit_initiation_untrusted(stamp(1.0), 0.0)
    assert refusal(ours, stamp(2.0), INITIATION_INTERVAL - 0.001) is Reason.RATE_LIMITED
    ours.admit_initiation_untrusted(stamp(2.0), INITIATION_INTERVAL)


def test_who_is_refused_keeps_nobody_else_out():
    ours = peer()
    ours.admit_initiation_untrusted(stamp(10.0), 0.0)
    for step in range(1, 100):
        assert refusal(ours, stamp(9.0), 1.0 + step / 1000) is Reason.OLD_TIMESTAMP
    ours.admit_initiation_untrusted(stamp(11.0), 1.1)


def test_a_label_that_is_no_time_is_a_label_all_the_same():
    ours = peer()
    ours.admit_initiation_untrusted(b"\xff" * 12, 0.0)
    assert refusal(ours, stamp(4e9), 1.0) is Reason.OLD_TIMESTAMP


OURS = Hello(b"ourepoch", 1400, "tun")


def theirs(epoch=b"theirone", mtu=1400):
    return Hello(epoch, mtu, "tun")


def test_settings_are_told_at_first_and_when_what_differs_is_another():
    ours = peer()
    assert ours.greet(OURS, theirs(), 0.0) == [Compared("berlin", ())]
    assert ours.greet(OURS, theirs(), 1.0) == []
    (compared,) = ours.greet(OURS, theirs(mtu=1300), 2.0)
    assert [difference.field for difference in compared.differences] == ["mtu"]
    assert ours.differences == compared.differences
    assert ours.greet(OURS, theirs(mtu=1300), 3.0) == []
    assert ours.greet(OURS, theirs(), 4.0) == [Compared("berlin", ())]
    assert ours.hello == theirs()


def test_a_peer_whose_clock_was_ahead_comes_back_when_that_is_forgotten():
    ours = peer()
    ours.admit_initiation_untrusted(stamp(2000.0), 1.0)
    assert refusal(ours, stamp(1000.0), 2.0) is Reason.OLD_TIMESTAMP
    ours.reset_timestamp()
    ours.admit_initiation_untrusted(stamp(1000.0), 3.0)
    assert ours.last_stamp == stamp(1000.0)


def test_another_epoch_is_a_restart_and_what_was_probed_before_is_forgotten():
    ours = peer()
    ours.greet(OURS, theirs(), 0.0)
    ours.prober.probe(1.0)
    assert ours.greet(OURS, theirs(b"anothers"), 2.0) == [Restarted("berlin")]
    ours.prober.probe(100.0)
    assert ours.prober.loss is None
    assert ours.greet(OURS, theirs(b"anothers"), 3.0) == []
