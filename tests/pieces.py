"""Whether something that was said gives a secret away."""

from __future__ import annotations

from tunneld.keys import encode

LEAST = 8  # bytes or characters


def pieces_in(secret: bytes, told: str | bytes) -> list[bytes]:
    """The pieces of LEAST bytes or characters of a secret that `told` holds, in any form in which bytes are shown."""
    seen = told.encode(errors="surrogateescape") if isinstance(told, str) else told
    texts = [encode(secret), *(text.encode() for text in (secret.hex(), secret.hex().upper(), str([*secret])[1:-1]))]
    pieces = [text[at : at + LEAST] for text in (secret, *texts) for at in range(len(text) - LEAST + 1)]
    pieces += [repr(secret[at : at + LEAST])[2:-1].encode() for at in range(len(secret) - LEAST + 1)]
    return [piece for piece in pieces if piece in seen]
