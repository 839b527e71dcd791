"""Feed the parsers with bad input, by hand: python -m tests.fuzz [--count N] [--seed N] [--only PARSER] [--round N]

Input comes in rounds, each from a seed of its own. A failure prints how to have its round again.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter

from tests.fuzz.parsers import INPUTS_PER_ROUND, PARSERS, one_round


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz")
    options.add_argument("--count", type=int, default=1_000_000, help="inputs per parser")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", action="append", choices=PARSERS)
    options.add_argument("--round", type=int, help="this one alone")
    given = options.parse_args()
    numbers = range(-(-given.count // INPUTS_PER_ROUND)) if given.round is None else [given.round]
    return int(not all([holds(name, given.seed, numbers) for name in given.only or PARSERS]))


def holds(name: str, seed: int, numbers: range | list[int]) -> bool:
    """Whether the parser stands these rounds; prints what it did."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        try:
            outcomes += one_round(name, seed, number)
        except Exception:
            traceback.print_exc()
            print(f"{name}: FAILED; again: python -m tests.fuzz --only {name} --seed {seed} --round {number}")
            return False
    seen = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.most_common())
    print(f"{name}: {len(numbers) * INPUTS_PER_ROUND:,} inputs without a fault; {seen}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
