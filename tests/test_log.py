from __future__ import annotations

import io
import logging
import os
import re
from contextlib import suppress

import pytest

from tunneld import log


@pytest.fixture(autouse=True)
def _restore():
    root, flood = logging.getLogger(), logging.getLogger("asyncio")
    handlers, level, filters = root.handlers[:], root.level, flood.filters[:]
    yield
    root.handlers[:], flood.filters[:] = handlers, filters
    root.setLevel(level)


def logged(journal: bool, act, level: int = logging.DEBUG) -> list[str]:
    """The lines that `act(logger)` writes."""
    stream = io.StringIO()
    log.setup(level, stream, journal)
    act(logging.getLogger("test"))
    return stream.getvalue().splitlines()


def fail(logger: logging.Logger) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it broke")


# --- lines


def test_a_line_for_people_has_the_time_and_the_level():
    (line,) = logged(False, lambda logger: logger.warning("peer %s is gone", "berlin"))

    assert re.fullmatch(r"\d\d:\d\d:\d\d warning peer berlin is gone", line)


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_a_line_for_the_journal_has_its_priority(level, priority):
    assert logged(True, lambda logger: getattr(logger, level)("up")) == [f"<{priority}>up"]


def test_every_line_of_a_traceback_has_the_priority():
    lines = logged(True, fail)

    assert lines[0] == "<3>it broke"
    assert lines[1] == "<3>Traceback (most recent call last):"
    assert lines[-2:] == ["<3>ValueError: two", "<3>lines"]
    assert all(line.startswith("<3>") for line in lines)


def test_a_traceback_for_people_stands_under_its_line():
    first, *rest = logged(False, fail)

    assert first.endswith("error   it broke")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_text_of_a_peer_cannot_begin_a_line_or_move_the_cursor():
    evil = "x\n<0>forged\r\x1b[2J\x9b\u2028\u202e\udcff"

    for journal in (True, False):
        (line,) = logged(journal, lambda logger: logger.info("name %s", evil))
        assert line.endswith(r"name x\n<0>forged\r\x1b[2J\x9b\u2028\u202e\udcff")


def test_the_level_holds_back_what_is_below_it():
    def act(logger):
        logger.info("no")
        logger.warning("yes")

    assert logged(True, act, logging.WARNING) == ["<4>yes"]


def test_a_second_setup_replaces_the_first():
    logged(True, lambda logger: None)
    assert logged(True, lambda logger: logger.info("once")) == ["<6>once"]
    assert sum(isinstance(h.formatter, log.JournalFormatter) for h in logging.getLogger().handlers) == 1


# --- the journal


@pytest.mark.parametrize("of", ["this stream", "another", "nothing"])
def test_only_a_variable_that_names_this_stream_means_the_journal(of, tmp_path, monkeypatch):
    with open(tmp_path / "stderr", "w+") as stream, open(tmp_path / "other", "w") as other:
        status = os.fstat((stream if of == "this stream" else other).fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        if of == "nothing":
            monkeypatch.delenv("JOURNAL_STREAM")
        log.setup(logging.INFO, stream)
        logging.getLogger("test").info("up")
        stream.seek(0)

        assert stream.read().startswith("<6>") == (of == "this stream")


def test_a_stream_without_a_descriptor_is_for_people(monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    stream = io.StringIO()
    log.setup(logging.INFO, stream)
    logging.getLogger("test").info("up")

    assert not stream.getvalue().startswith("<")


def test_a_full_disk_does_not_stop_the_caller():
    with suppress(OSError), open("/dev/full", "w") as stream:  # closing it fails, too
        log.setup(logging.INFO, stream)
        for _ in range(100):
            logging.getLogger("test").info("up")
        survived = True

    assert survived


# --- floods


def test_ten_lines_a_second_of_a_kind_pass_and_the_rest_is_counted():
    limiter = log.Limiter()

    first = [limiter.admit("stranger", 100 + i / 50) for i in range(50)]

    assert first == [0] * 10 + [None] * 40
    assert limiter.admit("other", 100.5) == 0
    assert limiter.admit("stranger", 101) == 40
    assert limiter.admit("stranger", 101.1) == 0


def test_the_count_of_a_flood_that_ended_is_told_once():
    limiter = log.Limiter(per_second=1)
    for _ in range(5):
        limiter.admit("stranger", 100)
    limiter.admit("quiet", 100)

    assert limiter.settle(100.5) == {}
    assert limiter.settle(101) == {"stranger": 4}
    assert limiter.settle(102) == {}
    assert limiter.admit("stranger", 102) == 0


def test_what_is_withheld_is_told_before_the_next_line_or_by_settle():
    def act(logger):
        limited = log.Limited(logger, per_second=2)
        for i in range(5):
            limited.warning(100, "strangers", "dropped %d", i)
        limited.log(logging.INFO, 101, "strangers", "dropped %d", 5)
        for _ in range(4):
            limited.warning(101, "strangers", "dropped again")
        limited.settle(103)

    assert logged(True, act) == [
        "<4>dropped 0",
        "<4>dropped 1",
        "<6>strangers: and 3 more",
        "<6>dropped 5",
        "<4>dropped again",
        "<4>strangers: and 3 more",
    ]


def test_asyncio_may_not_flood_the_log():
    def act(_):
        flood = logging.getLogger("asyncio")
        for i in range(1000):
            record = flood.makeRecord("asyncio", logging.WARNING, "", 0, "send failed %d", (i,), None)
            record.created = 100 + i / 500
            flood.handle(record)

    lines = logged(True, act)

    assert len(lines) == 20
    assert lines[10] == "<4>send failed 500 (and 490 more before)"
