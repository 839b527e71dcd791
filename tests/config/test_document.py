from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.config.document import Document, Faults
from tunneld.proto.errors import ConfigErrors

TEXT = """\
# a comment = 1
top.inner = 1

[interface]   # [not] this
name = "tun0"
text = '''
mtu = 5
[peer]
'''
mtu = 1400
[[peer]]
name = "a"
allowed_ips = [
  "10.0.0.0/24", "10.1.0.0/24",

  "10.2.0.0/24",  # ] no end
]
[peer.extra]
x = 1
[[peer]]
inline = { y = 1, z = 2 }
[peer.extra]
x = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top", "inner"), 2),
        (("top",), 2),
        (("interface",), 4),
        (("interface", "name"), 5),
        (("interface", "mtu"), 10),
        (("interface", "absent"), 4),
        (("peer", 0), 11),
        (("peer", 0, "allowed_ips"), 13),
        (("peer", 0, "allowed_ips", 0), 14),
        (("peer", 0, "allowed_ips", 1), 14),
        (("peer", 0, "allowed_ips", 2), 16),
        (("peer", 0, "extra", "x"), 19),
        (("peer", 1), 20),
        (("peer", 1, "inline", "z"), 21),
        (("peer", 1, "extra", "x"), 23),
        (("nowhere",), 1),
        ((), 2),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_value_stands_on_its_line(path, line, end):
    assert _document(TEXT.replace("\n", end)).line_of(path) == line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = 1\nb 2\n", "f.toml:2: column 3: expected '=' after a key in a key/value pair; write key = value"),
        ("a = tun0\n", 'f.toml:1: column 5: invalid value; text needs quotes: key = "text"'),
        ("a = 1\nb = [1,\n2\n", "f.toml:2: unclosed array, from here on; close it with ]"),
        ('a = "x\n', r"f.toml:1: column 7: illegal character '\n'; close the text with a quote on the same line"),
        ('a = 1\n# b\n\nb = """x\n', "f.toml:4: unterminated string, from here on; close it with a quote"),
        ("a = 1\n\n[x]\nb = 2\nb = 3\n", "f.toml:5: b: already set in line 4; keep one of the two"),
        ("[x]\nb = 2\n[y]\nb = 2\n[x]\n", "f.toml:5: [x]: already opened in line 1; put its keys there"),
        ("[[x]]\n[x]\n", "f.toml:2: [x]: already opened in line 1; write both with the same brackets"),
        ("[x]\n[[x]]\n", "f.toml:2: [x]: already opened in line 1; write both with the same brackets"),
        ("a = " + "[" * 100_000, "f.toml: nested too deeply; see tunneld.toml(5)"),
    ],
)
def test_a_slip_in_the_syntax_is_shown_where_it_was_made(text, fault):
    with pytest.raises(ConfigErrors) as refusal:
        _document(text)
    assert str(refusal.value) == fault


def test_faults_come_in_the_order_of_the_file_and_are_known_by_path():
    document = _document(TEXT)
    document.fault(("peer", 0, "allowed_ips", 2), "bad")
    document.fault(("interface",), "bad", key="[interface]")
    assert document.faulty("peer", 0, "allowed_ips")
    assert document.faulty("peer")
    assert not document.faulty("peer", 1)
    assert not document.faulty("interface", "name")
    with pytest.raises(ConfigErrors) as raised:
        document.faults.raise_any()
    assert str(raised.value).splitlines() == ["f.toml:4: [interface]: bad", "f.toml:16: allowed_ips: bad"]


def test_without_faults_nothing_is_raised():
    _document(TEXT).faults.raise_any()


def test_names_of_a_stranger_cannot_write_a_second_line():
    faults = Faults(Path("a\nb\x1b.toml"))
    faults.add(1, "k\ney", "mess\nage")
    assert str(faults.errors[0]) == r"a\nb\x1b.toml:1: k\ney: mess\nage"


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["1", '"x"', "[1,\n2,\n]", "'''\n[a]\n'''", "{x = 1}", "{x = 1, y = 2}"])


@given(st.lists(st.tuples(KEYS, KEYS, VALUES), max_size=20))
def test_every_value_of_any_file_is_found_on_its_line(rows):
    """Sections of an array of tables, so that no key is ever set twice."""
    lines, wanted = [], {}
    counts: dict[str, int] = {}
    for table, key, value in rows:
        index = counts[table] = counts.get(table, -1) + 1
        lines += [f"[[{table}]]", "", f"{key} = {value}"]
        wanted[table, index, key] = "\n".join(lines).count("\n") + 1 - value.count("\n")
    document = _document("\n".join(lines))
    assert {path: document.line_of(path) for path in wanted} == wanted


def _document(text: str) -> Document:
    return Document(text, Faults(Path("f.toml")))
