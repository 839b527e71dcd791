from __future__ import annotations

import asyncio
import io

import pytest

from tunneld.lab.demo.screen import Screen, bar


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_in_a_pipe_each_step_is_one_line_without_escape_codes():
    stream = io.StringIO()
    screen = Screen(stream, live=False, colour=False, unicode=True)
    with screen.step("ping") as step:
        step.progress("half")
        step.result = "done → well"
    assert stream.getvalue() == "  ✓ ping        done → well\n"
    assert screen.passed == 1


def test_ascii_only_where_the_encoding_has_no_more():
    stream = io.StringIO()
    screen = Screen(stream, live=False, colour=False, unicode=False)
    screen.say("├ br0 ┤ → ← … █░ é")
    with screen.step("ping") as step:
        step.result = "a → b"
    assert stream.getvalue() == "+ br0 + -> <- ... #. ?\n  ok ping        a -> b\n"


def test_on_a_terminal_the_line_is_rewritten_and_never_wraps():
    stream = Terminal()
    screen = Screen(stream, live=True, colour=False, unicode=True)
    with screen.step("file") as step:
        step.progress("x" * 500)
        step.result = "all"
    first, live, final = stream.getvalue().split("\r\x1b[K")[1:]
    assert first.strip() == "… file"
    assert len(live) == 79
    assert final == "  ✓ file        all\n"


def test_live_lines_are_rewritten_at_most_once_a_frame():
    stream = Terminal()
    with Screen(stream, live=True, colour=False, unicode=True).step("file") as step:
        for number in range(1000):
            step.progress(str(number))
    assert stream.getvalue().count("\r\x1b[K") < 20


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (TimeoutError(), "waited 0 s in vain"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
    ids=["said", "timeout", "silent"],
)
def test_what_leaves_a_step_is_its_failure_and_goes_on(error: Exception, shown: str):
    stream = io.StringIO()
    screen = Screen(stream, live=False, colour=False, unicode=True)
    with pytest.raises(type(error)), screen.step("ping"):
        raise error
    assert stream.getvalue() == f"  ✗ ping        {shown}\n"
    assert screen.passed == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupted_step_has_not_failed(end: type[BaseException]):
    stream = Terminal()
    with pytest.raises(end), Screen(stream, live=True, colour=False, unicode=True).step("ping"):
        raise end
    assert "✗" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("stream", "environ", "live", "coloured"),
    [
        (io.StringIO(), {"TERM": "xterm"}, False, False),
        (Terminal(), {"TERM": "xterm"}, True, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        (Terminal(), {"TERM": "dumb"}, False, False),
        (Terminal(), {}, False, False),
    ],
    ids=["pipe", "terminal", "no-color", "dumb", "no-term"],
)
def test_colour_and_live_lines_suit_the_stream(stream, environ, live, coloured):
    screen = Screen.of(stream, environ)
    screen.say("text", "good")
    assert screen.live == live
    assert stream.getvalue() == ("\x1b[32mtext\x1b[0m\n" if coloured else "text\n")


def test_a_long_result_goes_on_below_itself(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    with Screen(stream, live=False, colour=False, unicode=True).step("ping") as step:
        step.result = "word " * 20
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith(" " * 16 + "word") for line in lines[1:])
    assert max(map(len, lines)) <= 60


def test_a_step_that_is_not_taken_has_neither_passed_nor_failed():
    stream = io.StringIO()
    screen = Screen(stream, live=False, colour=False, unicode=False)
    screen.skip("wireguard", "not installed")
    assert stream.getvalue() == "  -- wireguard   not installed\n"
    assert screen.passed == 0


def test_bar():
    assert [bar(share, width=4) for share in (0.0, 0.5, 1.0)] == ["░░░░", "██░░", "████"]
