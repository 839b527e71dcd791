"""The handshake: two messages, after which both ends hold the same two transport keys.

    initiator                                 responder
    create_initiation  ─── initiation ──→  consume_initiation_untrusted
    consume_response_untrusted  ←── response ───  create_response

A message that is refused changes nothing: the initiator goes on waiting, the responder has not begun. Whether the
initiator is a peer and its timestamp is new is for the caller to check between the responder's two steps. The
responder does not know that the initiator has the keys, or the preshared key at all, until it opens a data message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag

from tunneld.proto.cookie import CookieJar, check_mac1_untrusted, mac1_key
from tunneld.proto.errors import BadPacket, Reason
from tunneld.proto.framing import Buffer
from tunneld.proto.noise import KEY_BYTES, HandshakeState, UnusableKeyError, key_pair
from tunneld.proto.profile import MessageType, Profile
from tunneld.proto.wire import INITIATION, MAC_BYTES, RESPONSE, expect_untrusted

Random = Callable[[int], bytes]

# What stands for the preshared key of those who have none.
NO_PRESHARED_KEY: Final = bytes(KEY_BYTES)

_NO_MACS: Final = (bytes(MAC_BYTES), bytes(MAC_BYTES))

_NOT_STORED: Final = "there are secrets in it, which are not to be stored, nor sent"


class Local:
    """Our end under one profile: the static key pair and what follows from it."""

    def __init__(self, profile: Profile, private: bytes | bytearray) -> None:
        """`private` is our private key, 32 bytes, which may be overwritten afterwards."""
        self.profile = profile
        self.static = key_pair(private)
        self._mac1_key = mac1_key(self.static.public)

    def check_mac1_untrusted(self, message: Buffer) -> None:
        """Raises BadPacket(BAD_MAC1) unless the initiation or response `message` was made for our public key."""
        check_mac1_untrusted(self._mac1_key, message)


# Neither of the next two is compared by what it holds: that would tell by its time how much of a secret is right.
@dataclass(frozen=True, slots=True, eq=False)
class Remote:
    """A peer: its public key, the preshared key of 32 bytes, and the jar for the cookies it sends us."""

    public: bytes
    preshared_key: bytes = field(default=NO_PRESHARED_KEY, repr=False)
    jar: CookieJar = field(init=False, repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NOT_STORED)

    def __post_init__(self) -> None:
        assert len(self.preshared_key) == KEY_BYTES, "an empty one would be mixed in as another key than none"
        object.__setattr__(self, "jar", CookieJar(self.public))


@dataclass(frozen=True, slots=True, eq=False)
class TransportKeys:
    """What a handshake yields: 32 bytes to seal with, 32 to open with, and the index of the session at the peer."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)
    receiver: int

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NOT_STORED)


@dataclass(frozen=True, slots=True)
class SentInitiation:
    """The initiator's handshake while it waits for the response. Send `message`; `sender` is our index."""

    message: bytes
    sender: int
    state: HandshakeState = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReceivedInitiation:
    """What a proven initiation says: who sent it, when (TAI64N), and the index of the session there.

    Everything in it may be a replay. It is good for one `create_response`.
    """

    static: bytes
    timestamp: bytes
    sender: int
    state: HandshakeState = field(repr=False)


def create_initiation(
    local: Local, remote: Remote, *, sender: int, timestamp: bytes, now: float, random: Random
) -> SentInitiation:
    """Begin a handshake with `remote`: `sender` is our index for the session, `timestamp` 12 bytes of TAI64N.

    Raises UnusableKeyError if the configured key of the peer is of low order; there is nothing to send then.
    """
    state = _state(local, random, remote)
    noise = state.write_message(timestamp)
    word = local.profile.words[MessageType.INITIATION]
    body = INITIATION.pack(word, sender, noise, *_NO_MACS)
    return SentInitiation(_with_macs(body, remote, now), sender, state)


def consume_initiation_untrusted(local: Local, message: Buffer, random: Random) -> ReceivedInitiation:
    """Who wants to begin a handshake with us. `random` will make the ephemeral key of the response.

    Raises BadPacket: by length and type word, BAD_MAC1 before any curve operation, UNUSABLE_KEY, BAD_INITIATION.
    """
    expect_untrusted(message, local.profile, MessageType.INITIATION)
    local.check_mac1_untrusted(message)
    _, sender, noise, _, _ = INITIATION.unpack(message)
    state = _state(local, random)
    timestamp = _read_untrusted(state, noise, Reason.BAD_INITIATION)
    return ReceivedInitiation(state.rs, timestamp, sender, state)


def create_response(
    local: Local, remote: Remote, received: ReceivedInitiation, *, sender: int, now: float
) -> tuple[bytes, TransportKeys]:
    """Answer an initiation of `remote`: the message, and the keys, of which `sender` is our index.

    The keys must not be sent with before a message of the peer was opened with them.
    """
    assert remote.public == received.static
    state = received.state
    state.psk = remote.preshared_key
    noise = state.write_message(b"")
    word = local.profile.words[MessageType.RESPONSE]
    body = RESPONSE.pack(word, sender, received.sender, noise, *_NO_MACS)
    receive, send = state.split()
    return _with_macs(body, remote, now), TransportKeys(send, receive, received.sender)


def consume_response_untrusted(local: Local, sent: SentInitiation, message: Buffer) -> TransportKeys:
    """The keys of the handshake that `message` answers.

    Raises BadPacket, after which `sent` goes on waiting: by length and type word, BAD_MAC1, UNEXPECTED_ANSWER if it
    answers another initiation or this one was answered before, UNUSABLE_KEY, BAD_RESPONSE. A true peer's response is
    bad if the preshared keys differ.
    """
    expect_untrusted(message, local.profile, MessageType.RESPONSE)
    local.check_mac1_untrusted(message)
    _, sender, receiver, noise, _, _ = RESPONSE.unpack(message)
    if receiver != sent.sender or sent.state.finished:
        raise BadPacket(Reason.UNEXPECTED_ANSWER)
    _read_untrusted(sent.state, noise, Reason.BAD_RESPONSE)
    send, receive = sent.state.split()
    return TransportKeys(send, receive, sender)


def _state(local: Local, random: Random, responder: Remote | None = None) -> HandshakeState:
    """The state of a new handshake, ours to begin if a responder is given."""
    return HandshakeState(
        local.profile.noise_name,
        initiator=responder is not None,
        prologue=local.profile.prologue,
        s=local.static,
        random=random,
        rs=responder.public if responder is not None else b"",
        psk=responder.preshared_key if responder is not None else b"",
    )


def _read_untrusted(state: HandshakeState, noise: bytes, reason: Reason) -> bytes:
    try:
        return state.read_message_untrusted(noise)
    except InvalidTag:
        raise BadPacket(reason) from None
    except UnusableKeyError:
        raise BadPacket(Reason.UNUSABLE_KEY) from None


def _with_macs(message: bytes, remote: Remote, now: float) -> bytes:
    """`message` with its last 32 bytes, so far zeros, made the two MACs."""
    body = message[: -2 * MAC_BYTES]
    return body + b"".join(remote.jar.macs(body, now))
