"""Task groups that fail with the exception of their task, not with a group around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bare(*expected: type[Exception]) -> Iterator[None]:
    """Around a TaskGroup: when its tasks failed with nothing but `expected`, raise the first of them as it is.

    Any other failure is a bug of ours and comes out in its group. `except*` cannot do this: CPython before 3.11.4
    puts what is raised inside it into another group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        matching, other = group.split(expected)
        if other is not None or matching is None:
            raise
        first: BaseException = matching
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
