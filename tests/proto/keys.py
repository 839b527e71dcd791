"""Keys and random bytes of the tests of the handshake; all repeat from run to run."""

import random

PSK = bytes(range(1, 33))

# The points of X25519 whose product with every private key is zero, as the kernel's netns.sh lists them, and each
# again with the top bit set, which X25519 ignores. Wycheproof's 31 cases of a zero secret have these 14 public keys.
LOW_ORDER = [
    bytes.fromhex(text + last)
    for text, lasts in (
        ("00000000000000000000000000000000000000000000000000000000000000", ("00", "80")),
        ("01000000000000000000000000000000000000000000000000000000000000", ("00", "80")),
        ("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b8", ("00", "80")),
        ("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11", ("57", "d7")),
        ("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", ("7f", "ff")),
        ("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", ("7f", "ff")),
        ("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", ("7f", "ff")),
    )
    for last in lasts
]


def numbers(seed):
    """A source of bytes that repeats."""
    return random.Random(seed).randbytes


def flips(message, start, end):
    """The message with each one bit of its bytes from `start` to before `end` turned, one after the other."""
    for position in range(start * 8, end * 8):
        bad = bytearray(message)
        bad[position // 8] ^= 1 << position % 8
        yield bytes(bad)
