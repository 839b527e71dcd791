import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.proto.superpackets import words
from tunneld.proto.checksum import checksum


def test_the_example_of_rfc_1071():
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert checksum(data) == 0xFFFF ^ 0xDDF2


def test_an_odd_byte_counts_as_if_a_zero_followed():
    assert checksum(b"\x12\x34\x56") == checksum(b"\x12\x34\x56\x00") == 0xFFFF ^ (0x1234 + 0x5600)


@given(st.binary(max_size=99), st.binary(min_size=4, max_size=40))
def test_it_agrees_with_a_sum_word_by_word(data, more):
    (also,) = struct.unpack("!I", more[:4])
    if any(data) or also:
        assert checksum(memoryview(data), also) == 0xFFFF ^ words(data + bytes(len(data) % 2) + more[:4])


def test_a_sum_of_all_ones_gives_zero():
    assert checksum(b"\xff\xff") == checksum(b"\xff\x00", 0xFF) == 0
