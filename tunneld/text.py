"""Words on a terminal: foreign text made harmless, and the nearest known word for a mistyped one.

Kept free of heavy imports, since every verb pays for them.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 200


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line of at most `longest` characters, with everything unprintable written as an escape.

    Control characters, line ends, direction marks and lone surrogates cannot reach a terminal or a log this way.
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return escaped if len(escaped) <= longest else escaped[: longest - 1] + "…"


def quoted(text: str) -> str:
    """`text` as `printable`, short, and in double quotes."""
    return f'"{printable(text, 80)}"'


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` is probably a slip for; empty when none is near."""
    # Only a mistake pays for this import.
    import difflib

    return next(iter(difflib.get_close_matches(word[:LONGEST], list(known), n=1)), "")


def duration(seconds: float) -> str:
    """The two largest units of an age: "2 d 3 h", "45 s"."""
    whole = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
