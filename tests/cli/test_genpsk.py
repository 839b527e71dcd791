from __future__ import annotations

import base64

from tunneld.cli.main import main


def test_a_preshared_key_is_random_in_every_bit(capfd):
    """That of a private key is not: five of its bits are fixed."""
    seen_set, seen_clear = 0, 0
    for _ in range(64):
        assert main(["genpsk"]) == 0
        number = int.from_bytes(base64.b64decode(capfd.readouterr().out), "big")
        seen_set |= number
        seen_clear |= ~number
    every = (1 << 256) - 1
    assert (seen_set & every, seen_clear & every) == (every, every)
