"""The length prefix: `u16 big-endian length | bytes`, on a TCP stream and inside UDP datagrams.

Wire layout (simpletun):

    0                   1
    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
   +-------------------------------+-----------------
   |            length             |  length bytes ...
   +-------------------------------+-----------------

Every length is legal, 0 included: the prefix alone never ends a stream and never desynchronises it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from tunneld.proto.const import MAX_PACKET_BYTES, PREFIX_BYTES
from tunneld.proto.errors import BadPacket, Reason

PREFIX: Final = struct.Struct("!H")
Buffer = bytes | bytearray | memoryview

# One recv(2) fills at most this much: large enough that a busy stream is read in few calls, small enough to
# stay in the cache of the core that parses it.
STREAM_BUFFER_BYTES: Final = 256 * 1024

# So many records are handed out at once. A record may hold thousands of packets, and while those are seen to nobody
# else is.
TURN_RECORDS: Final = 16


def encode(records: Iterable[Buffer]) -> bytes:
    """The records, each behind its length, in one piece. Raises struct.error for one over 65,535 bytes."""
    parts: list[Buffer] = []
    for record in records:
        parts.append(PREFIX.pack(len(record)))
        parts.append(record)
    return b"".join(parts)


def group(records: Sequence[Buffer], limit: int) -> list[bytes]:
    """The records encoded into as few pieces of at most `limit` bytes as order allows.

    A record that alone exceeds `limit` gets a piece of its own: it is for the sender to refuse, not for us.
    """
    pieces: list[bytes] = []
    start = size = 0
    for index, record in enumerate(records):
        more = PREFIX_BYTES + len(record)
        if size and size + more > limit:
            pieces.append(encode(records[start:index]))
            start, size = index, 0
        size += more
    if size:
        pieces.append(encode(records[start:]))
    return pieces


def split_untrusted(piece: Buffer) -> tuple[list[memoryview], BadPacket | None]:
    """The records of one datagram, as views into it, and what is wrong with its end.

    A last record that is cut short is left out and reported as TRUNCATED; the whole ones before it stand.
    """
    records: list[memoryview] = []
    view = memoryview(piece)
    at, end = 0, len(view)
    while at < end:
        if end - at < PREFIX_BYTES:
            return records, BadPacket(Reason.TRUNCATED)
        (length,) = PREFIX.unpack_from(view, at)
        at += PREFIX_BYTES
        if length > end - at:
            return records, BadPacket(Reason.TRUNCATED)
        records.append(view[at : at + length])
        at += length
    return records, None


class StreamDecoder:
    """Cuts a byte stream into records, however the stream was split on its way.

    The bytes live in one fixed buffer of ours: read into `space()`, then call `received_untrusted(count)`.
    While `more` is true there are whole records left: ask for them first, by `received_untrusted(0)`. Else the buffer
    keeps at most one incomplete record, 65,537 bytes with its prefix.
    """

    def __init__(self, capacity: int = STREAM_BUFFER_BYTES) -> None:
        """`capacity` in bytes, at least 65,537 so that the longest record fits. Raises ValueError."""
        if capacity < PREFIX_BYTES + MAX_PACKET_BYTES:
            raise ValueError(f"a stream buffer of {capacity} bytes cannot hold the longest record")
        self._view = memoryview(bytearray(capacity))
        self._start = 0
        self._end = 0
        self.more = False

    @property
    def pending(self) -> int:
        """How many bytes of an incomplete record wait for their rest."""
        return self._end - self._start

    def space(self) -> memoryview:
        """Where the next bytes of the stream go; never empty. Ends the life of the records handed out before."""
        if self._start:
            pending = self.pending
            self._view[:pending] = self._view[self._start : self._end]
            self._start, self._end = 0, pending
        return self._view[self._end :]

    def received_untrusted(self, count: int) -> list[memoryview]:
        """The next 16 records, or less, that are whole with the `count` bytes just put into `space()`.

        They are views into the decoder's buffer, valid until the next call of `space`.
        """
        self._end += count
        view, at, end = self._view, self._start, self._end
        records: list[memoryview] = []
        self.more = False
        while end - at >= PREFIX_BYTES:
            (length,) = PREFIX.unpack_from(view, at)
            stop = at + PREFIX_BYTES + length
            if stop > end:
                break
            if len(records) == TURN_RECORDS:
                self.more = True
                break
            records.append(view[at + PREFIX_BYTES : stop])
            at = stop
        self._start = at
        return records
