"""A session: one pair of transport keys, the counters and the limits of both directions.

A data message is `type word 4 | receiver's index u32 little-endian | counter u64 | ciphertext | tag 16`;
the profile says in which order the counter's bytes stand and where the nonce is taken from. There is no
associated data: every byte of the header is compared or is part of the nonce.

Theory of operation

- A counter is spent before it is used, so that no failure in between can lead to its second use.
- On receipt: type word and index, tag, replay window. What is inside is for `payload` to judge, afterwards.
  A message that fails leaves no trace but a count.
- Who may ask for new keys follows WireGuard: for age only the end that initiated, so that not both do it at
  once; for the number of messages either end. Beyond the limits nothing is sealed and nothing opened,
  whatever the timers did in the meantime.
- Sealed messages are fresh bytes. Sealing into a buffer kept for it saves the allocation but no time below
  the size of a super-packet, and would need a rule about who owns the buffer until when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tunneld.proto.const import (
    REJECT_AFTER_BLOCKS,
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_BLOCKS,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
)
from tunneld.proto.errors import Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.profile import MessageType, Profile
from tunneld.proto.replay import ReplayRule
from tunneld.proto.wire import DATA_HEADER, LEAST_DATA_BYTES

# A data message is this much longer than its plaintext; a keepalive is nothing else.
OVERHEAD_BYTES: Final = LEAST_DATA_BYTES

# The header up to here is the same in all messages of a session and direction; the counter follows.
INDEX_END: Final = 8

# What the limits of a block cipher count.
BLOCK_BYTES: Final = 16

# Counters come in blocks of this many over UDP: one block for all slices of a super-packet.
BLOCK_COUNTERS: Final = 64


@dataclass(slots=True)
class Opened:
    """What was authentic and new in a batch, in its order. A plaintext is empty for a keepalive.

    `counters` are those of the plaintexts, one each: a slice of a super-packet says by its counter which one it is.
    `latest` is the place in the batch of the last such message, whose source is where the peer is now.
    `refused` counts the other messages of the batch; on a stream one of them ends the connection.
    """

    plaintexts: list[bytes] = field(default_factory=list)
    counters: list[int] = field(default_factory=list)
    latest: int | None = None
    refused: int = 0


class Session:
    """Seals and opens data messages under one pair of keys. Times are CLOCK_BOOTTIME seconds.

    `local_index` is ours and arrives in messages, `remote_index` is the peer's and goes out in them. `initiator`
    says whether we began the handshake, `born` when it gave the keys. `drops` counts what was refused, by reason.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        sending_key: Buffer,
        receiving_key: Buffer,
        local_index: int,
        remote_index: int,
        initiator: bool,
        born: float,
        received: ReplayRule,
    ) -> None:
        """`received` is the rule for the counters of the peer: ReplayWindow over UDP, Succession over TCP."""
        self.local_index = local_index
        self.remote_index = remote_index
        self.initiator = initiator
        self.born = born
        self.drops: Counter[Reason] = Counter()
        self._sealing = profile.aead(sending_key)
        self._opening = profile.aead(receiving_key)
        self._order = profile.counter_order
        word = profile.words[MessageType.DATA]
        self._sent_start = word + remote_index.to_bytes(4, "little")
        self._received_start = word + local_index.to_bytes(4, "little")
        self._sent_nonce = profile.nonce_prefix + self._sent_start[profile.nonce_start :]
        self._received_nonce = profile.nonce_prefix + self._received_start[profile.nonce_start :]
        self._received = received
        self._next = 0
        self._blocks = 0
        # Of the ciphers in use only ChaCha20-Poly1305 has no limit that its counter does not reach first.
        self._counts_blocks = profile.aead is not ChaCha20Poly1305

    def __repr__(self) -> str:
        return f"Session(local_index={self.local_index:#010x}, remote_index={self.remote_index:#010x})"

    def alive(self, now: float) -> bool:
        """Whether the keys are young enough for use, in either direction."""
        return now - self.born < REJECT_AFTER_TIME

    def can_seal(self, now: float) -> bool:
        """Whether one more message may be sealed."""
        return self.alive(now) and self._has_room(messages=1, blocks=1)

    def rekey_due_sending(self, now: float) -> bool:
        """Whether we should ask for new keys when we send."""
        return (
            (self.initiator and now - self.born >= REKEY_AFTER_TIME)
            or self._next >= REKEY_AFTER_MESSAGES
            or (self._counts_blocks and self._blocks >= REKEY_AFTER_BLOCKS)
        )

    def rekey_due_receiving(self, now: float) -> bool:
        """Whether we should ask for new keys when we receive, since we may have nothing to send."""
        return self.initiator and now - self.born >= REKEY_AFTER_TIME_RECEIVING

    def seal_batch(self, plaintexts: Sequence[Buffer], now: float) -> list[bytes]:
        """The messages for `plaintexts`, in order; none, and all counted as EXPIRED, beyond the limits."""
        first = self._next
        blocks = sum(-(-len(plaintext) // BLOCK_BYTES) or 1 for plaintext in plaintexts)
        if not (self.alive(now) and self._has_room(len(plaintexts), blocks)):
            self.drops[Reason.EXPIRED] += len(plaintexts)
            return []
        self._next = first + len(plaintexts)
        self._blocks += blocks
        start, nonce, order, encrypt = self._sent_start, self._sent_nonce, self._order, self._sealing.encrypt
        messages = []
        for number, plaintext in enumerate(plaintexts, first):
            counter = number.to_bytes(8, order)
            messages.append(start + counter + encrypt(nonce + counter, plaintext, None))
        return messages

    def reserve_block(self) -> int | None:
        """Spend a whole block of counters on one super-packet: its first counter, a multiple of 64; None at the end.

        Single messages go on behind the block, so no block holds both, and counters only ever grow.
        """
        first = -(-self._next // BLOCK_COUNTERS) * BLOCK_COUNTERS
        if first + BLOCK_COUNTERS > REJECT_AFTER_MESSAGES:
            return None
        self._next = first + BLOCK_COUNTERS
        return first

    def open_batch_untrusted(self, messages: Sequence[Buffer], now: float) -> Opened:
        """Open what is ours, authentic and new. The plaintexts own their memory."""
        opened = Opened()
        if not self.alive(now):
            self._refuse(opened, Reason.EXPIRED, len(messages))
            return opened
        start, nonce, order, decrypt = self._received_start, self._received_nonce, self._order, self._opening.decrypt
        for place, message in enumerate(messages):
            header = bytes(message[: DATA_HEADER.size])
            if len(message) < LEAST_DATA_BYTES or header[:INDEX_END] != start:
                self._refuse(opened, Reason.UNKNOWN_SESSION)
                continue
            counter = header[INDEX_END:]
            try:
                plaintext = decrypt(nonce + counter, message[DATA_HEADER.size :], None)
            except InvalidTag:
                self._refuse(opened, Reason.FORGED)
                continue
            number = int.from_bytes(counter, order)
            if not self._received.accept(number):
                self._refuse(opened, Reason.REPLAYED)
                continue
            opened.plaintexts.append(plaintext)
            opened.counters.append(number)
            opened.latest = place
        return opened

    def _refuse(self, opened: Opened, reason: Reason, count: int = 1) -> None:
        self.drops[reason] += count
        opened.refused += count

    def _has_room(self, messages: int, blocks: int) -> bool:
        """Whether so much more keeps within the limits; a keepalive counts as a block, as its tag takes one."""
        return self._next + messages <= REJECT_AFTER_MESSAGES and not (
            self._counts_blocks and self._blocks + blocks > REJECT_AFTER_BLOCKS
        )
