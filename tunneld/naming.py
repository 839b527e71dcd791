"""What a tunnel may be called: its file, its lock, its control socket and its journal all bear the name."""

from __future__ import annotations

import re

NAME_RULE = "letters, digits and . _ @ -, at most 64 of them, the first a letter or a digit"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


def is_name(text: str) -> bool:
    """Whether `text` keeps to NAME_RULE."""
    return _NAME.fullmatch(text) is not None
