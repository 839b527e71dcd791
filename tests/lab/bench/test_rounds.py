from __future__ import annotations

import os

import pytest

from tunneld.lab.bench import measure, rounds
from tunneld.lab.bench.remote import MeasureError
from tunneld.lab.bench.rig import BARE, Variant
from tunneld.lab.bench.rounds import Settings

pytestmark = pytest.mark.usefixtures("namespaces")

TUNNEL = Variant("plain", "tcp", "tun")


async def test_every_way_is_measured_in_every_round_and_nothing_is_left():
    before = os.listdir("/proc/self/fd"), os.listdir("/run")
    steps: list[str] = []
    results = await rounds.run(Settings(rounds=1, seconds=0.05), [TUNNEL], steps.append)

    assert steps == ["starting the daemons", "round 1 of 1: bare veth", "round 1 of 1: plain tcp tun"]
    assert [(way, len(samples)) for way, samples in results.samples.items()] == [(BARE, 1), ("plain tcp tun", 1)]
    bare, tunnel = results.samples[BARE][0].figures, results.samples["plain tcp tun"][0].figures
    assert tunnel.keys() - bare.keys() == {"cpu_s_per_gb", "peak_memory_bytes"}
    # No bare cable is slower than a tunnel through it, nor does a packet for nothing pass two daemons.
    assert tunnel["stream_right_bits_per_s"] < bare["stream_right_bits_per_s"]
    assert tunnel["idle_rtt_median_s"] > bare["idle_rtt_median_s"]
    assert 0.01 < tunnel["cpu_s_per_gb"] < 1000
    assert 10e6 < tunnel["peak_memory_bytes"] < 500e6
    assert 0 < results.seconds < 60
    assert (os.listdir("/proc/self/fd"), os.listdir("/run")) == before


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_each_round_begins_with_another_way(monkeypatch):
    async def sample(way, ends, seconds):
        return measure.Sample({"seconds": seconds})

    monkeypatch.setattr(rounds, "sample", sample)
    steps: list[str] = []
    results = await rounds.run(Settings(rounds=3, seconds=0.5), [TUNNEL], steps.append)
    assert [step.removeprefix("round ") for step in steps[1:]] == [
        "1 of 3: bare veth", "1 of 3: plain tcp tun",
        "2 of 3: plain tcp tun", "2 of 3: bare veth",
        "3 of 3: bare veth", "3 of 3: plain tcp tun",
    ]  # fmt: skip
    assert list(results.samples) == [BARE, "plain tcp tun"]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_failure_names_the_way(monkeypatch):
    async def sample(way, ends, seconds):
        raise MeasureError("stream: 2 bytes were sent, 1 arrived")

    monkeypatch.setattr(rounds, "sample", sample)
    with pytest.raises(MeasureError, match=r"^bare veth: stream: 2 bytes were sent, 1 arrived$"):
        await rounds.run(Settings(), [TUNNEL], lambda step: None)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_daemon_that_ends_fails_the_run_with_its_log():
    with pytest.raises(MeasureError, match=r"has ended on right\n.*mode: .tin. is not known"):
        await rounds.run(Settings(), [Variant("plain", "tcp", "tin")], lambda step: None)
