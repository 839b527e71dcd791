import random

import pytest

from tunneld.proto.controlchannel import Echo
from tunneld.proto.prober import PATIENCE, PROBE_INTERVAL, REMEMBERED, Prober


def echo(probe):
    return Echo(probe.identifier, probe.size)


def test_nothing_is_known_before_the_first_probe_and_one_is_due():
    prober = Prober()
    assert (prober.round_trip, prober.loss) == (None, None)
    assert prober.due(0.0)


def test_one_probe_is_due_in_ten_seconds():
    prober = Prober()
    prober.probe(100.0)
    assert not prober.due(100.0)
    assert not prober.due(100.0 + PROBE_INTERVAL - 0.001)
    assert prober.due(100.0 + PROBE_INTERVAL)


def test_the_first_echo_gives_the_round_trip_and_later_ones_move_it_by_an_eighth():
    prober = Prober()
    assert prober.echoed_untrusted(echo(prober.probe(0.0)), 0.080)
    assert prober.round_trip == pytest.approx(0.080)
    assert prober.echoed_untrusted(echo(prober.probe(10.0)), 10.160)
    assert prober.round_trip == pytest.approx(0.090)
    assert prober.loss == 0.0


def test_an_echo_that_nobody_waits_for_changes_nothing():
    prober = Prober()
    probe = prober.probe(0.0)
    assert prober.echoed_untrusted(echo(probe), 0.1)
    before = prober.round_trip, prober.loss
    assert not prober.echoed_untrusted(echo(probe), 0.2)
    assert not prober.echoed_untrusted(Echo(77, 6), 0.2)
    assert (prober.round_trip, prober.loss) == before


def test_a_probe_is_lost_after_five_seconds_and_its_late_echo_counts_no_more():
    prober = Prober()
    late = prober.probe(0.0)
    prober.probe(PATIENCE - 0.01)
    assert prober.loss is None
    prober.probe(PATIENCE)
    assert prober.loss == 1.0
    assert not prober.echoed_untrusted(echo(late), PATIENCE)


def test_an_echo_after_more_than_five_seconds_of_nobody_looking_still_counts():
    prober = Prober()
    probe = prober.probe(0.0)
    assert prober.echoed_untrusted(echo(probe), 6.0)
    assert (prober.round_trip, prober.loss) == (6.0, 0.0)


def test_loss_is_that_of_the_last_32_probes():
    prober, lots = Prober(), random.Random(1)
    fates = []
    for number in range(200):
        probe = prober.probe(10.0 * number)
        fates.append(lots.random() < 0.7)
        if fates[-1]:
            prober.echoed_untrusted(echo(probe), 10.0 * number + 0.05)
        judged = fates if fates[-1] else fates[:-1]
        last = judged[-REMEMBERED:]
        assert prober.loss == (last.count(False) / len(last) if last else None)
    assert prober.round_trip == pytest.approx(0.05)


def test_what_was_sent_before_the_peer_was_started_anew_is_neither_lost_nor_echoed():
    prober = Prober()
    old, new = prober.probe(0.0), prober.probe(0.5)
    prober.forget(0.5)
    assert not prober.echoed_untrusted(echo(old), 0.6)
    assert prober.loss is None
    assert prober.echoed_untrusted(echo(new), 0.6)
    prober.probe(100.0)
    assert prober.loss == 0.0


def test_identifiers_begin_anew_after_the_last():
    prober = Prober()
    prober._next = (1 << 32) - 1
    assert [prober.probe(0.0).identifier, prober.probe(0.0).identifier] == [(1 << 32) - 1, 0]
