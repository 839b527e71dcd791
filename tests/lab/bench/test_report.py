from __future__ import annotations

import json

import pytest

from tunneld.lab.bench import report
from tunneld.lab.bench.measure import Sample
from tunneld.lab.bench.report import Column, number
from tunneld.lab.bench.rig import BARE
from tunneld.lab.bench.rounds import Results, Settings

MACHINE = {
    "tunneld": "1.2.3", "python": "3.14.0", "uvloop": "0.22.1", "kernel": "6.18.0", "cpus": 2, "cpu": "Some CPU",
    "privileges": "root",
}  # fmt: skip


def results(bare: list[float], tunnel: list[float]) -> Results:
    """Of one figure, whose values these are in the rounds."""
    samples = {BARE: bare, "plain udp tap": tunnel}
    return Results(
        Settings(rounds=len(bare), seconds=0.1),
        12.5,
        {way: [Sample({"stream_right_bits_per_s": value}) for value in values] for way, values in samples.items()},
    )


def test_a_summary_is_median_range_and_the_median_ratio_within_rounds():
    found = report.summaries(results([100.0, 10.0, 50.0], [20.0, 1.0, 25.0]).samples, BARE)
    tunnel = found["plain udp tap"]["stream_right_bits_per_s"]
    assert (tunnel.median, tunnel.low, tunnel.high, tunnel.limited) == (20.0, 1.0, 25.0, False)
    assert tunnel.ratio == pytest.approx(0.2)  # of 0.2, 0.1 and 0.5; that of the medians would be 0.4
    assert found[BARE]["stream_right_bits_per_s"].ratio is None


def test_nothing_is_compared_with_nothing():
    found = report.summaries(results([0.0, 0.0], [20.0, 10.0]).samples, BARE)
    assert found["plain udp tap"]["stream_right_bits_per_s"].ratio is None


def test_one_limited_round_marks_the_figure():
    taken = results([1e9, 1e9], [2e8, 2e8])
    taken.samples[BARE][1].limited.add("stream_right_bits_per_s")
    text = report.text(taken, MACHINE)
    assert "bare veth       1,000*" in text
    assert text.endswith(report.MARKED)
    assert report.MARKED not in report.text(results([1e9], [2e8]), MACHINE)


def test_a_table_aligns_like_with_like_and_leaves_out_who_has_nothing():
    found = report.summaries(results([9e9, 8e9, 12.5e9], [40e6, 1e9, 45e6]).samples, BARE)
    found["other"] = {}
    lines = list(report.table("title", [Column("stream_right_bits_per_s", "right", 1e-6)], found))
    assert lines == [
        "title",
        "                right",
        "bare veth       9,000 (8,000-12,500)",
        "plain udp tap    45.0 (40.0-1,000)   0.00444x",
    ]


def test_every_table_fits_100_columns():
    columns = [column for table in report.TABLES.values() for column in table]

    def wide(factor: float) -> list[Sample]:
        """Five digits everywhere, but for packets: no pair of sockets passes many millions a second."""
        shown = {column: factor * (0.01 if "packets" in column.figure else 1.0) / column.scale for column in columns}
        return [
            Sample({column.figure: value * unit for column, value in shown.items()}, {one.figure for one in columns})
            for unit in (10_450, 12_340, 98_760)
        ]

    text = report.text(Results(Settings(), 60.0, {BARE: wide(9), "tunneld tcp tap": wide(1)}), MACHINE)
    assert max(map(len, text.splitlines()[2:])) <= 100


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (0.00444, "0.00444"), (0.1, "0.100"), (1, "1.00"), (9.999, "10.0"), (99.96, "100"),
        (123.4, "123"), (25_678.0, "25,700"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, shown):
    assert number(value) == shown


def test_every_column_is_of_another_figure():
    figures = [column.figure for table in report.TABLES.values() for column in table]
    assert len(set(figures)) == len(figures)


def test_the_document_holds_every_round_and_is_json():
    document = json.loads(json.dumps(report.document(results([100.0, 10.0], [20.0, 1.0]), MACHINE)))
    assert document["machine"] == MACHINE
    assert document["settings"] == {"rounds": 2, "seconds": 0.1}
    assert (document["seconds"], document["base"]) == (12.5, BARE)
    way = document["ways"]["plain udp tap"]
    assert [one["figures"]["stream_right_bits_per_s"] for one in way["rounds"]] == [20.0, 1.0]
    assert way["summary"]["stream_right_bits_per_s"]["median"] == 10.5


def test_the_machine_is_this_one():
    told = report.machine("userns")
    assert told["privileges"] == "userns"
    assert told["cpus"] >= 1
    assert all(told.values())


def test_a_processor_without_a_name_has_an_architecture():
    assert report._cpu_model("processor\t: 0\nmodel name\t: Fast: 9000\n") == "Fast: 9000"
    assert report._cpu_model("processor\t: 0\n") == report.platform.machine()
