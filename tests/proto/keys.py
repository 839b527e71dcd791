"""Keys and random bytes of the tests of the handshake; all repeat from run to run."""

import random

PSK = bytes(range(1, 33))

# The points of X25519 whose product with every private key is zero, as the kernel's netns.sh lists them.
LOW_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
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
