from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunneld.proto.source import FirstSender, FixedSource, Learned, Released

A, B, C = ("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.3", 3)


def test_a_fixed_source_admits_its_address_and_nobody_before_it_is_known():
    source = FixedSource()
    assert not source.admits(A, 0.0)
    source.address = A
    assert source.admits(A, 0.0)
    assert not source.admits(B, 0.0)


def test_a_fixed_source_hears_every_address_of_its_endpoint_and_answers_the_last():
    source = FixedSource()
    source.resolved((A, B))
    assert source.address == A
    assert source.admits(B, 0.0)
    assert source.address == B
    assert not source.admits(C, 0.0)
    source.resolved((A, B))
    assert source.address == B
    source.resolved((C,))
    assert source.address == C
    assert not source.admits(B, 0.0)


def test_the_addresses_of_a_fixed_source_take_turns():
    source = FixedSource()
    assert not source.turn()
    source.resolved((A, B))
    assert [source.turn(), source.address] == [True, B]
    assert [source.turn(), source.address] == [True, A]
    source.resolved((A,))
    assert not source.turn()
    assert source.address == A


def test_the_first_sender_is_the_peer_until_60_s_of_silence():
    source = FirstSender()
    assert source.poll_timeout() is None
    assert source.admits(A, 100.0)
    assert not source.admits(B, 159.9)
    assert source.admits(A, 159.9)
    assert source.poll_timeout() == (219.9, "the peer is silent")
    source.handle_timeout(219.8)
    assert source.address == A
    source.handle_timeout(219.9)
    assert source.address is None
    assert [source.poll_event(), source.poll_event(), source.poll_event()] == [Learned(A), Released(A), None]


def test_the_release_is_checked_on_use_without_any_timer():
    source = FirstSender()
    source.admits(A, 0.0)
    assert source.admits(B, 60.0)
    assert source.address == B


class FirstSenderModel(RuleBasedStateMachine):
    """Against the obvious reading of the rule: whoever was admitted last and is not 60 s silent is the peer."""

    def __init__(self):
        super().__init__()
        self.source = FirstSender()
        self.now = 0.0
        self.last = None

    @rule(seconds=st.integers(0, 70))
    def wait(self, seconds):
        self.now += seconds

    @rule(sender=st.sampled_from([A, B]))
    def datagram(self, sender):
        free = self.last is None or self.now - self.last[1] >= 60
        admitted = free or self.last[0] == sender
        assert self.source.admits(sender, self.now) == admitted
        if admitted:
            self.last = (sender, self.now)

    @precondition(lambda self: self.last is not None)
    @rule()
    def timer(self):
        self.source.handle_timeout(self.now)
        assert (self.source.address is None) == (self.now - self.last[1] >= 60)

    @invariant()
    def address_is_the_last_admitted(self):
        assert self.source.address in (None, self.last and self.last[0])


TestFirstSenderModel = FirstSenderModel.TestCase
