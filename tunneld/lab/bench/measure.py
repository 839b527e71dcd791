"""One sample: everything that is measured of one way, one after the other, so that no two disturb each other."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunneld.lab.bench.ends import Answer
from tunneld.lab.bench.remote import End, MeasureError
from tunneld.tasks import bare

PACKET = 64  # bytes of a small packet, from its IP header on
HEADERS = 28  # IPv4 and UDP
TRIALS = 6  # of rates, in search of the highest without loss
ALMOST = 0.95  # of what was asked of a sender, or of what it sent: good enough to have kept up
BUSY = 0.9  # of a core: an end that took more was itself the limit
HEAD_START = 0.3  # of the duration of a measurement: the bulk stream's, before its round trips are measured


@dataclass(frozen=True, slots=True)
class Way:
    """`left` and `right` are the IPv4 addresses between which to measure; `pids` are the daemons that do the work."""

    name: str
    left: str
    right: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends that move traffic, and on the left another one that pings meanwhile."""

    left: End
    right: End
    pinger: End


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures by name, which ends in the unit. `limited`: those for which not the way was the limit, but an end."""

    figures: dict[str, float] = field(default_factory=dict)
    limited: set[str] = field(default_factory=set)

    def note(self, name: str, value: float, limited: bool = False) -> None:
        self.figures[name] = value
        if limited:
            self.limited.add(name)


class RateSearch:
    """The highest rate at which nothing is lost: up from `rate` until it is too high, or down, then halving."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.best = 0.0
        self._too_high: float | None = None

    @property
    def endless(self) -> bool:
        """No rate was too high so far."""
        return self._too_high is None

    def passed(self, achieved: float) -> None:
        """Nothing was lost at `rate`, of which `achieved` arrived in time."""
        self.best = max(self.best, achieved)
        self.rate = self.rate * 1.5 if self._too_high is None else (self.rate + self._too_high) / 2

    def failed(self) -> None:
        """`rate` was too high."""
        self._too_high = self.rate
        self.rate = (self.best + self.rate) / 2 if self.best else self.rate * 0.6


async def sample(way: Way, ends: Ends, seconds: float) -> Sample:
    """Measure everything of one way, `seconds` for each figure. Raises MeasureError."""
    taken = Sample()
    before = cpu_seconds(way.pids)
    right = await _stream(ends.left, ends.right, way.right, seconds)
    left = await _stream(ends.right, ends.left, way.left, seconds)
    spent = cpu_seconds(way.pids) - before
    taken.note("stream_right_bits_per_s", right.rate, right.limited)
    taken.note("stream_left_bits_per_s", left.rate, left.limited)
    if way.pids:
        taken.note("cpu_s_per_gb", spent / ((right.amount + left.amount) / 1e9))
    await _packets(taken, ends, way.right, seconds)
    await _round_trips(taken, ends, way.right, seconds)
    if way.pids:
        taken.note("peak_memory_bytes", max(map(peak_memory, way.pids)))
    return taken


@dataclass(frozen=True, slots=True)
class Flow:
    """What one transfer carried, in bytes or datagrams; `rate` is of the receiver, in bits or datagrams a second."""

    amount: int
    rate: float
    limited: bool


async def _stream(sender: End, receiver: End, address: str, seconds: float) -> Flow:
    port = (await receiver.ask("receive_stream", address=address, seconds=seconds))["port"]
    sent = await sender.ask("send_stream", address=address, port=port, seconds=seconds)
    return checked_stream(sent, await receiver.answer())


def checked_stream(sent: Answer, received: Answer) -> Flow:
    """Raises MeasureError: not every byte has arrived."""
    if sent["sent"] != received["received"] or not received["rate"] > 0:
        raise MeasureError(f"stream: {sent['sent']} bytes were sent, {received['received']} arrived")
    return Flow(received["received"], received["rate"] * 8, max(sent["busy"], received["busy"]) > BUSY)


@dataclass(frozen=True, slots=True)
class Blast:
    """Datagrams sent and received, and both rates in datagrams a second."""

    sent: int
    received: int
    offered: float
    arrived: float
    waits: int
    overflown: int

    @property
    def lossless(self) -> bool:
        """Nothing was lost, nor did a queue hide that more was sent than the way carries."""
        return self.received == self.sent and self.arrived >= ALMOST * self.offered

    @property
    def limited(self) -> bool:
        """The receiver could not take more, or the sender could not give more."""
        return self.overflown > 0 or (not self.waits and self.received >= ALMOST * self.sent)


async def _packets(taken: Sample, ends: Ends, address: str, seconds: float) -> None:
    overload = await _blast(ends, address, seconds, None)
    if not overload.arrived > 0:
        raise MeasureError(f"packets: {overload.sent} datagrams were sent, {overload.received} arrived")
    taken.note("overload_packets_per_s", overload.arrived, overload.limited)
    taken.note("offered_packets_per_s", overload.offered)
    search = RateSearch(overload.arrived)
    overflown = False
    for _ in range(TRIALS):
        trial = await _blast(ends, address, seconds / 2, search.rate)
        if trial.lossless:
            search.passed(trial.arrived)
        else:
            overflown = trial.overflown > 0
            search.failed()
    taken.note("lossless_packets_per_s", search.best, limited=search.endless or overflown)


async def _blast(ends: Ends, address: str, seconds: float, rate: float | None) -> Blast:
    payload = os.urandom(PACKET - HEADERS).hex()
    listening = await ends.right.ask("receive_datagrams", address=address, payload=payload, seconds=seconds)
    sent = await ends.left.ask(
        "send_datagrams", address=address, port=listening["port"], payload=payload, seconds=seconds, rate=rate
    )
    await ends.right.tell(sent=sent["sent"])
    return checked_blast(sent, await ends.right.answer())


def checked_blast(sent: Answer, received: Answer) -> Blast:
    """Raises MeasureError: something else has arrived than was sent."""
    if received["strange"] or received["received"] > sent["sent"]:
        own, other = received["received"], received["strange"]
        raise MeasureError(f"packets: {sent['sent']} datagrams were sent, {own} arrived, and {other} others")
    return Blast(
        sent["sent"], received["received"], sent["rate"], received["rate"], sent["waits"], received["overflown"]
    )


async def _round_trips(taken: Sample, ends: Ends, address: str, seconds: float) -> None:
    idle = await ends.pinger.ask("ping", address=address, seconds=seconds)
    if len(idle["times"]) != idle["sent"]:
        raise MeasureError(f"round trip: of {idle['sent']} echoes on the idle way, {len(idle['times'])} came back")
    _note_times(taken, "idle", idle["times"])
    with bare(MeasureError):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_stream(ends.left, ends.right, address, seconds * (1 + 2 * HEAD_START)))
            await asyncio.sleep(seconds * HEAD_START)
            busy = await ends.pinger.ask("ping", address=address, seconds=seconds)
    if not busy["times"]:
        raise MeasureError(f"round trip: none of {busy['sent']} echoes beside a bulk stream came back")
    _note_times(taken, "bulk", busy["times"])


def _note_times(taken: Sample, name: str, times: Sequence[float]) -> None:
    taken.note(f"{name}_rtt_median_s", statistics.median(times))
    taken.note(f"{name}_rtt_p99_s", quantile(times, 0.99))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def cpu_seconds(pids: Sequence[int]) -> float:
    """What these processes have used since their start, in user and kernel mode. Raises OSError."""
    ticks = 0
    for pid in pids:
        # The name, in parentheses, may hold blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """The most resident memory that a process has had, in bytes. Raises OSError."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
