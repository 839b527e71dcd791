from __future__ import annotations

import pytest

from tunneld.naming import is_name


@pytest.mark.parametrize("name", ["a", "left", "simpletun-tun0", "9", "a.b_c@d-e", "n" * 64])
def test_a_name(name):
    assert is_name(name)


@pytest.mark.parametrize("text", ["", ".", "..", ".left", "-left", "a/b", "a b", "left\n", "ü", "n" * 65])
def test_no_name(text):
    assert not is_name(text)
