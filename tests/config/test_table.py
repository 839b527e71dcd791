from __future__ import annotations

from pathlib import Path

import pytest

from tunneld.config import fields
from tunneld.config.document import Document, Faults
from tunneld.config.table import Table

TEXT = """\
[interface]
name = "tun0"
mtu = 9
addresses = ["10.0.0.0/24", "10.0.0.1/24", "x"]
adresses = []
metal = 1
endpoint = "a:1"
endpiont = "a:1"
cipher = "x"
"""


@pytest.fixture
def document():
    return Document(TEXT, Faults(Path("f.toml")))


@pytest.fixture
def table(document):
    return Table(document, ("interface",), document.values["interface"])


def test_good_values_are_taken_and_bad_ones_give_way_to_the_default(document, table):
    assert table.take("name", fields.interface_name, "") == "tun0"
    assert table.take("mtu", fields.mtu, 1400) == 1400
    assert table.take("mac", fields.mac, None) is None
    assert [str(address) for address in table.take_list("addresses", fields.address)] == ["10.0.0.1/24"]
    assert table.take_list("routes", fields.prefix) == ()
    assert [(error.line, error.key) for error in document.faults.errors] == [
        (3, "mtu"),
        (4, "addresses"),
        (4, "addresses"),
    ]


def test_a_lone_value_is_a_list_only_where_it_may_be(document, table):
    assert [str(endpoint) for endpoint in table.take_list("endpoint", fields.endpoint, single=True)] == ["a:1"]
    assert table.take_list("name", fields.text) == ()
    assert [str(error) for error in document.faults.errors] == [
        'f.toml:2: name: expected a list; write name = ["tun0"]'
    ]


def test_what_is_left_over_is_explained(document, table):
    for key in ("name", "mtu"):
        table.take(key, lambda value: value, None)
    table.take_list("addresses", lambda value: value)
    table.close({"cipher": "not yet"}, {"endpoint": "[[peer]]"})
    assert [str(error) for error in document.faults.errors] == [
        'f.toml:5: "adresses": unknown key; did you mean "addresses"?',
        'f.toml:6: "metal": unknown key; remove it, or see tunneld.toml(5)',
        'f.toml:7: "endpoint": unknown key; it belongs below [[peer]]',
        'f.toml:8: "endpiont": unknown key; did you mean "endpoint" below [[peer]]?',
        "f.toml:9: cipher: not yet",
    ]
    assert document.faulty("interface", "addresses")


def test_a_required_key_is_missed_unless_it_was_only_misspelt(document):
    table = Table(document, ("interface",), {"nmae": "tun0"})
    table.take("name", fields.interface_name, "")
    table.take("mode", fields.text, "")
    table.close({}, {})
    assert (table.given("nmae"), table.given("name")) == (True, False)
    table.require("name", "missing")
    table.require("mode", "missing too")
    assert [(error.key, error.message) for error in document.faults.errors] == [
        ('"nmae"', 'unknown key; did you mean "name"?'),
        ("mode", "missing too"),
    ]
    assert document.faulty("interface", "mode")
