from tunneld.proto.errors import Reason
from tunneld.remedies import REMEDIES


def test_there_is_one_for_every_reason():
    assert list(REMEDIES) == list(Reason)


def test_each_is_one_clause_that_fits_a_line():
    assert [
        text for text in REMEDIES.values() if not text.isprintable() or len(text) > 110 or text.endswith(".")
    ] == []
