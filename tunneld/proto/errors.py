"""Errors that say whose they are, and the reasons for which a packet is dropped.

`BadPacket` is the peer's or a stranger's, `LinkDown` is the world's, `ConfigError` is the operator's.
Any other exception is our own bug and ends the process loudly.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a packet or message was dropped. The value is the name that `tunneld show` prints."""

    EMPTY = "empty"
    OVERSIZED = "oversized"
    WRONG_MODE = "wrong-mode"
    TRUNCATED = "truncated"
    STRANGER = "stranger"
    NO_LINK = "no-link"
    NO_PEER = "no-peer"
    NO_DEVICE = "no-device"
    QUEUE_FULL = "queue-full"
    SEND_REFUSED = "send-refused"
    DEVICE_REFUSED = "device-refused"
    DEVICE_FULL = "device-full"
    DEVICE_DOWN = "device-down"
    UNKNOWN_SESSION = "unknown-session"
    FORGED = "forged"
    REPLAYED = "replayed"
    EXPIRED = "session-expired"
    UNKNOWN_KIND = "unknown-kind"
    UNKNOWN_CONTROL = "unknown-control"
    MALFORMED = "malformed"
    NOT_IP = "not-ip"
    BPDU = "bpdu"
    STORM = "storm"
    MAC_LIMIT = "mac-limit"
    MAC_TAKEN = "mac-taken"
    UNKNOWN_MESSAGE = "unknown-message"
    OTHER_SETTINGS = "other-settings"
    BAD_MAC1 = "not-for-our-key"
    BAD_INITIATION = "bad-initiation"
    BAD_RESPONSE = "bad-response"
    BAD_COOKIE = "bad-cookie"
    UNEXPECTED_ANSWER = "unexpected-answer"
    UNUSABLE_KEY = "unusable-key"
    OLD_TIMESTAMP = "old-timestamp"
    UNKNOWN_PEER = "unknown-peer"
    NO_COOKIE = "no-cookie"
    RATE_LIMITED = "rate-limited"
    WRONG_SOURCE = "wrong-source"
    NO_ROUTE = "no-allowed-ip"
    NO_SESSION = "no-session"

    # There is one object of each. Enum would hash the name, in Python, for every packet that is counted.
    __hash__ = object.__hash__


class BadPacket(Exception):
    """The peer's fault: drop what was read and count `reason`. The reader may go on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class LinkDown(Exception):
    """The world's fault: the link is gone. `str()` is one clause that names the cause; reconnect with back-off."""


class DeviceError(Exception):
    """The device cannot be opened or was lost. `str()` is one line with the cause and what to do."""


class ConfigError(Exception):
    """The operator's fault: one line of `file:line: key: what is wrong; what to do`. Ends in exit code 2."""

    def __init__(self, file: str, line: int, key: str, message: str) -> None:
        self.file = file
        self.line = line
        self.key = key
        self.message = message
        super().__init__(": ".join(part for part in (f"{file}:{line}" if line else file, key, message) if part))


class ConfigErrors(Exception):
    """All the faults of one configuration, in file order; never empty."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors
