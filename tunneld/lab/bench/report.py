"""What the bench says: tables that fit a terminal and a commit message, and JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunneld import __version__
from tunneld.lab.bench.measure import Sample
from tunneld.lab.bench.rig import BARE
from tunneld.lab.bench.rounds import Results

MARK = "*"
MARKED = f"{MARK} the measuring itself was the limit; the true figure is higher"
GAP = "   "  # between two columns


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure of one way over all rounds.

    `ratio` is the median of those to the bare cable of the same round; None where there is nothing to compare.
    """

    median: float
    low: float
    high: float
    ratio: float | None
    limited: bool


@dataclass(frozen=True, slots=True)
class Column:
    """`scale` turns the figure's unit into that of the table."""

    figure: str
    heading: str
    scale: float
    ratio: bool = True


TABLES: dict[str, tuple[Column, ...]] = {
    "one TCP stream, Mbit/s": (
        Column("stream_right_bits_per_s", "left to right", 1e-6),
        Column("stream_left_bits_per_s", "right to left", 1e-6),
    ),
    "UDP packets of 64 bytes, thousands per second": (
        Column("lossless_packets_per_s", "without loss", 1e-3),
        Column("overload_packets_per_s", "under overload", 1e-3),
        Column("offered_packets_per_s", "of offered", 1e-3, ratio=False),
    ),
    "round trip on the idle way, µs": (
        Column("idle_rtt_median_s", "median", 1e6),
        Column("idle_rtt_p99_s", "99 %", 1e6),
    ),
    "round trip beside a TCP stream, ms": (
        Column("bulk_rtt_median_s", "median", 1e3),
        Column("bulk_rtt_p99_s", "99 %", 1e3),
    ),
    "cost": (
        Column("cpu_s_per_gb", "CPU s per GB, both daemons", 1),
        Column("peak_memory_bytes", "peak MiB, the larger daemon", 2**-20),
    ),
}


def summaries(samples: Mapping[str, Sequence[Sample]], base: str) -> dict[str, dict[str, Summary]]:
    """By way and figure; `base` is the way that the others are compared with. Each has one sample of every round."""
    return {
        way: {figure: _summary(figure, rounds, samples[base]) for figure in rounds[0].figures}
        for way, rounds in samples.items()
    }


def _summary(figure: str, rounds: Sequence[Sample], base: Sequence[Sample]) -> Summary:
    values = [one.figures[figure] for one in rounds]
    ratios = [
        own.figures[figure] / other.figures[figure]
        for own, other in zip(rounds, base, strict=True)
        if own is not other and other.figures.get(figure)
    ]
    return Summary(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        ratio=statistics.median(ratios) if ratios else None,
        limited=any(figure in one.limited for one in rounds),
    )


def text(results: Results, machine: Mapping[str, str | int]) -> str:
    """All tables, at most 100 columns wide."""
    found = summaries(results.samples, BARE)
    settings = results.settings
    lines = [
        f"tunneld {machine['tunneld']} bench, {settings.rounds} round{'s' * (settings.rounds != 1)}"
        f" of {settings.seconds:g} s for each figure: median (min-max), ratio to the {BARE}",
        f"Python {machine['python']}, uvloop {machine['uvloop']}, Linux {machine['kernel']},"
        f" {machine['cpus']} CPUs ({machine['cpu']}), {machine['privileges']}",
    ]
    for title, columns in TABLES.items():
        if shown := list(table(title, columns, found)):
            lines += ["", *shown]
    if any(summary.limited for figures in found.values() for summary in figures.values()):
        lines += ["", MARKED]
    return "\n".join(lines)


def table(title: str, columns: Sequence[Column], found: Mapping[str, Mapping[str, Summary]]) -> Iterator[str]:
    """The lines of one table, without the ways that have none of its figures; nothing if none has."""
    ways = [way for way, figures in found.items() if any(column.figure in figures for column in columns)]
    if not ways:
        return
    lines = _padded(["", *ways])
    for column in columns:
        cells = _cells(column, [found[way].get(column.figure) for way in ways])
        lines = [line + GAP + cell for line, cell in zip(lines, _padded([column.heading, *cells]), strict=True)]
    yield title
    yield from (line.rstrip() for line in lines)


def _cells(column: Column, summaries: Sequence[Summary | None]) -> list[str]:
    """Median, range and ratio of each, every one of them under its like."""
    medians, ranges, ratios = [], [], []
    for one in summaries:
        medians.append("-" if one is None else number(one.median * column.scale) + MARK * one.limited)
        low, high = (0.0, 0.0) if one is None else (one.low * column.scale, one.high * column.scale)
        ranges.append(f" ({number(low)}-{number(high)})" if low != high else "")
        ratios.append(f" {number(one.ratio)}x" if one is not None and one.ratio is not None and column.ratio else "")
    parts = (_padded(medians, right=True), _padded(ranges), _padded(ratios, right=True))
    return ["".join(cell) for cell in zip(*parts, strict=True)]


def _padded(cells: Sequence[str], right: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def number(value: float) -> str:
    """Three significant digits; the spread is far larger than what they leave out."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 or rounded == 0 else f"{rounded:#.3g}"


def document(results: Results, machine: Mapping[str, str | int]) -> dict[str, Any]:
    """For programs: every figure of every round, with its unit at the end of its name, and the summaries."""
    found = summaries(results.samples, BARE)
    return {
        "machine": dict(machine),
        "settings": asdict(results.settings),
        "seconds": results.seconds,
        "base": BARE,
        "ways": {
            way: {
                "summary": {figure: asdict(summary) for figure, summary in found[way].items()},
                "rounds": [{"figures": one.figures, "limited": sorted(one.limited)} for one in samples],
            }
            for way, samples in results.samples.items()
        },
    }


def machine(privileges: str) -> dict[str, str | int]:
    """What the figures depend on; `privileges` is what `sandbox.enter` returned."""
    return {
        "tunneld": __version__,
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text()),
        "privileges": privileges,
    }


def _cpu_model(cpuinfo: str) -> str:
    """The name of the first processor; its architecture where the kernel tells no name."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
