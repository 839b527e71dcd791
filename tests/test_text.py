from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.text import nearest, printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tun0", "tun0"),
        ("Zürich → Köln", "Zürich → Köln"),
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),
        ("x" * 201, "x" * 199 + "…"),
    ],
)
def test_what_could_move_a_cursor_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text(alphabet=st.characters()), st.integers(1, 300))
def test_any_text_becomes_one_bounded_line(text, longest):
    shown = printable(text, longest)
    assert shown.isprintable()
    assert len(shown) <= longest
    shown.encode()


def test_quotes_are_added_after_escaping():
    assert quoted("a\tb") == r'"a\tb"'
    assert re.fullmatch(r'"x{79}…"', quoted("x" * 10_000))


def test_a_slip_of_the_pen_is_recognised():
    assert nearest("lisen", ["listen", "protocol"]) == "listen"
    assert nearest("zebra", ["listen", "protocol"]) == ""
