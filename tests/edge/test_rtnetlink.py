from __future__ import annotations

import errno
import struct

import pytest

from tunneld.edge import rtnetlink

RTM_GETLINK = 18
IFLA_IFNAME = 3
ANY_LINK = bytes(16)  # struct ifinfomsg


def test_a_question_is_answered_with_attributes():
    with rtnetlink.open_socket() as sock:
        for name in (b"lo\0", b"lo"):
            answer = rtnetlink.ask(sock, RTM_GETLINK, ANY_LINK + rtnetlink.attribute(IFLA_IFNAME, name))
            found = dict(rtnetlink.walk(answer[len(ANY_LINK) :]))
            assert bytes(found[IFLA_IFNAME]) == b"lo\0"


def test_a_refusal_is_the_kernels_error_and_the_next_question_is_heard():
    with rtnetlink.open_socket() as sock:
        for _ in range(2):
            with pytest.raises(OSError, match="No such device") as refused:
                rtnetlink.ask(sock, RTM_GETLINK, ANY_LINK + rtnetlink.attribute(IFLA_IFNAME, b"nothing0\0"))
            assert refused.value.errno == errno.ENODEV


def test_attributes_are_padded_and_found_again():
    values = [(1, b""), (2, b"x"), (3, b"four"), (4, b"and ten by now")]
    packed = b"".join(rtnetlink.attribute(kind, value) for kind, value in values)
    assert len(packed) % 4 == 0
    assert [(kind, bytes(value)) for kind, value in rtnetlink.walk(memoryview(packed))] == values
    nested = struct.pack("=HH", 4, 0x8000 | 7)
    assert [kind for kind, _ in rtnetlink.walk(memoryview(nested))] == [7]
