from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tunneld.edge import clock
from tunneld.lab.bench import measure, rig
from tunneld.lab.bench.measure import Blast, RateSearch, quantile
from tunneld.lab.bench.remote import MeasureError

EVERY_WAY = {
    "stream_right_bits_per_s", "stream_left_bits_per_s", "overload_packets_per_s", "offered_packets_per_s",
    "lossless_packets_per_s", "idle_rtt_median_s", "idle_rtt_p99_s", "bulk_rtt_median_s", "bulk_rtt_p99_s",
}  # fmt: skip


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_sample_of_a_cable_has_every_figure_and_each_is_possible(pair):
    taken = await measure.sample(rig.bare(pair), await rig.ends(pair), 0.1)
    figures = taken.figures
    assert figures.keys() == EVERY_WAY
    assert taken.limited <= EVERY_WAY
    assert min(figures[name] for name in EVERY_WAY - {"lossless_packets_per_s"}) > 0
    assert figures["stream_right_bits_per_s"] > 1e7
    assert figures["idle_rtt_median_s"] <= figures["idle_rtt_p99_s"] < 1
    assert figures["bulk_rtt_median_s"] <= figures["bulk_rtt_p99_s"]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_way_that_leads_nowhere_is_no_figure_but_a_failure(pair):
    ends = await rig.ends(pair)
    nowhere = measure.Way("nowhere", pair.left_v4, "192.0.2.9")
    with pytest.raises(MeasureError, match=r"receive stream: .*Cannot assign requested address"):
        await measure.sample(nowhere, ends, 0.1)


def test_a_search_comes_close_to_what_a_way_carries():
    lots = random.Random(8)
    for _ in range(200):
        capacity, guess = lots.uniform(20, 100), lots.uniform(20, 100)
        search = RateSearch(guess)
        for _trial in range(measure.TRIALS):
            if search.rate <= capacity:
                search.passed(search.rate)
            else:
                search.failed()
        assert 0.6 * capacity <= search.best <= capacity


def test_a_search_without_end_and_one_without_success():
    up, down = RateSearch(10), RateSearch(10)
    for _ in range(measure.TRIALS):
        up.passed(9)  # all that the sender could give
        down.failed()
    assert (up.best, up.endless) == (9, True)
    assert (down.best, down.endless) == (0, False)


@pytest.mark.parametrize(
    ("blast", "lossless", "limited"),
    [
        (Blast(1000, 1000, 500.0, 500.0, waits=0, overflown=0), True, True),
        (Blast(1000, 1000, 500.0, 300.0, waits=7, overflown=0), False, False),  # a queue took the rest
        (Blast(1000, 999, 500.0, 500.0, waits=7, overflown=0), False, False),
        (Blast(1000, 400, 500.0, 200.0, waits=0, overflown=0), False, False),
        (Blast(1000, 400, 500.0, 200.0, waits=0, overflown=600), False, True),
    ],
)
def test_what_is_lossless_and_whose_the_limit_was(blast, lossless, limited):
    assert (blast.lossless, blast.limited) == (lossless, limited)


@pytest.mark.parametrize("received", [{"received": 99, "rate": 5.0}, {"received": 100, "rate": 0.0}])
def test_a_byte_that_is_missing_fails_the_measurement(received):
    with pytest.raises(MeasureError, match="stream: 100 bytes were sent"):
        measure.checked_stream({"sent": 100, "busy": 0.1}, received | {"busy": 0.1})


def test_the_busier_end_of_a_stream_may_be_the_limit():
    def limited(sender: float, receiver: float) -> bool:
        received = {"received": 100, "rate": 5.0, "busy": receiver}
        return measure.checked_stream({"sent": 100, "busy": sender}, received).limited

    assert (limited(0.95, 0.2), limited(0.2, 0.95), limited(0.8, 0.8)) == (True, True, False)


@pytest.mark.parametrize("received", [{"received": 101, "strange": 0}, {"received": 99, "strange": 1}])
def test_a_datagram_that_nobody_sent_fails_the_measurement(received):
    with pytest.raises(MeasureError, match="packets: 100 datagrams were sent"):
        measure.checked_blast({"sent": 100, "waits": 0, "rate": 1.0}, received | {"rate": 1.0, "overflown": 0})


def test_quantiles_are_values_that_occurred():
    values = [float(value) for value in range(200, 0, -1)]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 100, 198, 200]
    assert quantile([7.0], 0.99) == 7


def test_cpu_and_memory_of_a_process_are_its_own():
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        before = measure.cpu_seconds([busy.pid])
        _burn(0.1)
        assert 0.38 <= before < 5
        assert measure.cpu_seconds([busy.pid]) - before < 0.05
        assert measure.cpu_seconds([busy.pid, os.getpid()]) > before
        assert 50e6 < measure.peak_memory(busy.pid) < 500e6
        busy.communicate(b"\n")


# Has held 50 MB, which it gave back, and has a gigabyte of addresses without memory behind them.
WORKER = """
import mmap, time
reserved = mmap.mmap(-1, 1 << 30)
block = b"x" * 50_000_000
del block
while time.process_time() < 0.4:
    pass
print()
input()
"""


def _burn(seconds: float) -> None:
    end = clock.now() + seconds
    while clock.now() < end:
        pass
