"""A short form of `make fuzz`. That every input is refused says little if all are refused for the same reason."""

from collections import Counter

import pytest

from tests.fuzz.parsers import INPUTS_PER_ROUND, PARSERS, one_round

# Files are slow to write and to read.
INPUTS = {"config": 4000}
# What must have been seen, so that the inputs are known to come far.
SEEN = {
    "datagrams": {
        "unknown-message", "other-settings", "not-for-our-key", "bad-initiation", "bad-response", "bad-cookie",
        "unexpected-answer", "unknown-session", "forged", "no-cookie", "unknown-peer", "replayed", "old-timestamp",
    },
    "streams": {
        "unknown-message", "other-settings", "not-for-our-key", "bad-initiation", "unexpected-answer",
        "unknown-session", "forged",
    },
    "sealed": {"forged", "unknown-kind", "truncated", "not-ip", "wrong-source", "unknown-control", "malformed"},
    "inner": {
        "truncated", "oversized", "not-ip", "unknown-kind", "control", "from peer, to peer", "from None, to None",
        "switched device",
    },
    "control": {"Hello", "Probe", "Echo", "Goodbye", "truncated", "malformed", "unknown-control", "oversized"},
    "framing": {"whole", "truncated", "record"},
    "keys": {"key", "bad"},
    "config": {"good", "faults"},
}  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_20000_bad_inputs_do_no_harm(name):
    outcomes: Counter[str] = Counter()
    for number in range(INPUTS.get(name, 20_000) // INPUTS_PER_ROUND):
        outcomes += one_round(name, seed=1, number=number)
    assert outcomes.keys() >= SEEN[name]
