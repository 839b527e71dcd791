"""How many handshake messages one address may cost us: 20 a second, 5 at once.

An IPv4 address counts alone, IPv6 addresses by their /64, as that is what one host is given. Ask only for addresses
that were proved by MAC2: a forged one would take the tokens of its owner.
"""

from __future__ import annotations

from typing import Final

_SECOND: Final = 1_000_000_000

# All in nanoseconds: as integers, so that a bucket is full again at the exact moment.
PACKET_COST: Final = _SECOND // 20
BURST: Final = 5 * PACKET_COST
# An entry that was not used for so long has a full bucket, as a new one has.
IDLE: Final = _SECOND

MAX_ENTRIES: Final = 65_536

# So many idle entries are dropped per call: more than the one that is added, few enough to cause no pause.
_DROPS_PER_CALL: Final = 4

_MAPPED: Final = bytes(10) + b"\xff\xff"

assert BURST <= IDLE


class RateLimiter:
    """A token bucket for every address that was heard within a second; without a timer of its own."""

    def __init__(self) -> None:
        # What is left in the bucket, and when that was; the longest unused first.
        self._buckets: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, address: bytes, now: float) -> bool:
        """Whether the sender at `address`, 4 or 16 bytes, may cost us one more message at `now`.

        False also for a new address while 65,536 others are active.
        """
        moment = round(now * _SECOND)
        self._drop_idle(moment, _DROPS_PER_CALL)
        key = _key(address)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= MAX_ENTRIES:
                return False
            tokens = BURST
        else:
            left, since = bucket
            tokens = min(BURST, left + moment - since)
        allowed = tokens >= PACKET_COST
        self._buckets[key] = (tokens - PACKET_COST if allowed else tokens, moment)
        return allowed

    def expire(self, now: float) -> None:
        """Drop every idle entry; for a caller that is awake anyway."""
        self._drop_idle(round(now * _SECOND), len(self._buckets))

    def _drop_idle(self, moment: int, most: int) -> None:
        for _ in range(most):
            key = next(iter(self._buckets), None)
            if key is None or moment - self._buckets[key][1] <= IDLE:
                return
            del self._buckets[key]


def _key(address: bytes) -> bytes:
    """What an address counts under. Mapped IPv4 addresses share one /64, and must not share one bucket."""
    if len(address) == 4:
        return address
    return address[12:] if address.startswith(_MAPPED) else address[:8]
