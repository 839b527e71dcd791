"""How true inputs are damaged. Every choice comes from the `random.Random` that is given."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

# Bytes in which lengths, versions, types and signs turn over.
TURNING = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F, 0x10, 0x13, 0x45, 0x60, 0x7F, 0x80, 0x81, 0x84, 0xFE, 0xFF)


def damaged(choose: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """`message` after one to three blows; some of them bring in a piece of another message."""
    bad = bytearray(message)
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        _blow(choose, bad, others)
    return bytes(bad)


def turned(choose: Random, message: bytes) -> bytes:
    """`message` with one to three of its bytes changed, and its length kept."""
    bad = bytearray(message)
    for at in choose.sample(range(len(bad)), choose.randint(1, 3)):
        bad[at] = _another(choose, bad[at])
    return bytes(bad)


def _another(choose: Random, byte: int) -> int:
    return choose.choice((byte ^ 1 << choose.randrange(8), choose.choice(TURNING), choose.randrange(256)))


def _blow(choose: Random, bad: bytearray, others: Sequence[bytes]) -> None:
    way, at = choose.randrange(8), choose.randrange(len(bad) + 1)
    if way == 0:
        del bad[at:]
    elif way == 1:
        bad += choose.randbytes(choose.randrange(1, 20))
    elif way == 2:
        other = choose.choice(others)
        bad[at:] = other[choose.randrange(len(other) + 1) :]
    elif way == 3:
        del bad[at : at + choose.randrange(1, 5)]
    elif way == 4:
        bad[at:at] = choose.randbytes(choose.randrange(1, 5))
    elif at < len(bad):
        bad[at] = _another(choose, bad[at])
