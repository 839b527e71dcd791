from tests.proto.ends import public
from tunneld.diagnosis import Diagnosis
from tunneld.keys import PublicKey
from tunneld.links.roster import Roster
from tunneld.links.state import PeerState, State


def test_what_the_log_was_spared_of_any_peer_is_told_by_one_call():
    now, changes = [1000.0], []
    states = {name: PeerState(name, lambda: now[0], lambda name=name: changes.append(name)) for name in "bc"}
    diagnosis = Diagnosis("t", states, ours=PublicKey(public("a")), settings="any", clock=lambda: now[0])
    roster = Roster({}, states, diagnosis)
    for number in range(50):
        for state in states.values():
            state.become(State.CONNECTING, f"try {number}")
    told = len(changes)
    assert told < 100
    now[0] += 10
    roster.settle()
    assert changes[told:] == ["b", "c"]
