"""Keys: the format of `wg`, the types that keep a secret out of logs, and the files that they are loaded from.

A key is 32 bytes, written as 44 characters of base64. Secrets live in a bytearray, so that they can be cleared, and
are decoded here rather than by `binascii`, whose result could not be.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import shlex
import stat
from binascii import b2a_base64
from pathlib import Path
from typing import NamedTuple, NoReturn

from tunneld.proto.errors import ConfigError
from tunneld.text import printable, quoted

KEY_BYTES = 32
KEY_CHARACTERS = 44
LARGEST_TEXT = 4096  # bytes; a key with much white space after it is still a key

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = bytes(max(_ALPHABET.find(code), 0) for code in range(256))
_TRAILING = b" \t\n\v\f\r\0"  # what `wg pubkey` passes over, and nothing before the key


class BadKey(ValueError):
    """A text that is no key. `str()` is one clause that says why, and holds one character of the text at most."""


class PublicKey(NamedTuple):
    """A public key: 32 bytes. `str()` is its text, `repr()` the first characters of it."""

    raw: bytes

    @classmethod
    def decode(cls, text: str) -> PublicKey:
        """The key that `text` stands for. Raises BadKey, also for a point of low order, which hides no secret."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

        raw = bytes(decode(memoryview(text.encode(errors="surrogatepass"))))
        try:
            # Every scalar is a multiple of 8 once it is clamped, so the one of zeros meets every low order as well.
            X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES)).exchange(X25519PublicKey.from_public_bytes(raw))
        except ValueError:
            raise BadKey("not a usable key: it is of low order") from None
        return cls(raw)

    def __str__(self) -> str:
        return encode(self.raw).decode()

    def __repr__(self) -> str:
        return f"PublicKey({str(self)[:8]}…)"


class Secret:
    """32 secret bytes in `raw`, which belongs to this object. `repr()` and `str()` show a fingerprint only."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytearray) -> None:
        self.raw = raw

    def clear(self) -> None:
        """Overwrite the secret. What needs it afterwards fails, as `raw` is empty, and not the key of zeros."""
        wipe(self.raw)
        self.raw = bytearray()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and type(other) is type(self) and hmac.compare_digest(self.raw, other.raw)

    # It can be cleared, so it is no key of a dictionary.
    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be stored, nor sent")

    def __repr__(self) -> str:
        if not self.raw:
            return f"{type(self).__name__}(cleared)"
        # 32 bits of a hash tell two keys apart, and tell nothing of 256 random bits.
        fingerprint = hashlib.blake2s(self.raw, digest_size=4, person=b"tunneld").hexdigest()
        return f"{type(self).__name__}(fingerprint {fingerprint})"


class PrivateKey(Secret):
    """An X25519 private key, clamped in place as RFC 7748 has it."""

    __slots__ = ("_public",)

    def __init__(self, raw: bytearray) -> None:
        super().__init__(raw)
        self._public: PublicKey | None = None
        _clamp(raw)

    def public_key(self) -> PublicKey:
        """Worked out once, so that it stays when the key is cleared; raises ValueError if that came first."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        if self._public is None:
            self._public = PublicKey(X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw())
        return self._public


class PresharedKey(Secret):
    """A key that both ends have beside their key pairs; none is the same as 32 zero bytes."""

    __slots__ = ()


def encode(raw: bytes | bytearray) -> bytes:
    """The 44 characters of a key."""
    return b2a_base64(raw, newline=False)


def decode(text: memoryview) -> bytearray:
    """The 32 bytes of a key, of which `text` is the 44 characters and white space after them.

    Takes what `wg` takes: base64 in which every key has one spelling. Raises BadKey.
    """
    end = len(text)
    while end and text[end - 1] in _TRAILING:
        end -= 1
    if not end:
        raise BadKey("empty")
    length = end - 1 if text[end - 1] == ord("=") else end
    for at in range(length):
        if text[at] not in _ALPHABET:
            raise BadKey(f"{_shown(text[at])} at position {at + 1}; a key is 32 random bytes in base64")
    if end != KEY_CHARACTERS:
        raise BadKey(f"expected {KEY_CHARACTERS} base64 characters ({KEY_BYTES} bytes), got {end}")
    if length == end:
        raise BadKey(f'the last of the {KEY_CHARACTERS} characters must be "="')
    raw = bytearray(KEY_BYTES + 1)
    try:
        for group in range(KEY_CHARACTERS // 4):
            bits = 0
            for code in text[4 * group : 4 * group + 4]:
                bits = bits << 6 | _VALUES[code]
            raw[3 * group : 3 * group + 3] = bits.to_bytes(3, "big")
        # What is left over must be zero, or one key would have four spellings.
        if raw[KEY_BYTES]:
            raise BadKey('no key has that character before "="; the text is damaged')
        return raw[:KEY_BYTES]
    finally:
        wipe(raw)


def wipe(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))


def read_all(descriptor: int, content: bytearray) -> int:
    """Fill `content` from `descriptor` until either ends; returns how many bytes were read. Raises OSError."""
    count = 0
    with memoryview(content) as view:
        while count < len(view) and (more := os.readv(descriptor, [view[count:]])):
            count += more
    return count


def load_private_key(given: str, directory: Path) -> PrivateKey:
    """The private key in the file `given`.

    A name without a slash is that of a systemd credential where the unit has any ($CREDENTIALS_DIRECTORY). Otherwise
    it is a file, and a relative path starts in `directory`, that of the configuration.

    Raises ConfigError, with the file in place of the configuration, when it is no private key, or when others can
    read or replace it; the message ends with the command that mends it.
    """
    source = _source(given, directory)
    return PrivateKey(_load(source, "genkey"))


def load_preshared_key(given: str, directory: Path, private: PrivateKey | None) -> PresharedKey:
    """The preshared key in the file `given`, found and refused as a private key is, and when it equals `private`.

    `private` is None where that has a fault of its own.
    """
    source = _source(given, directory)
    key = PresharedKey(_load(source, "genpsk"))
    if private is not None and _equal_when_clamped(key, private):
        raise source.fault(f"equals the private key; {source.remedy('genpsk')}")
    return key


class _Source(NamedTuple):
    """Where a key is loaded from."""

    path: Path
    credential: str | None

    @property
    def word(self) -> str:
        """The path as a shell takes it."""
        return shlex.quote(str(self.path))

    def fault(self, message: str) -> ConfigError:
        return ConfigError(printable(str(self.path), LARGEST_TEXT), 0, "", printable(message, LARGEST_TEXT))

    def remedy(self, verb: str) -> str:
        if self.credential is not None:
            return f"create the file of LoadCredential={self.credential} with tunneld {verb}"
        return f"create it with tunneld {verb}: (umask 077; tunneld {verb} >{self.word})"


def _source(given: str, directory: Path) -> _Source:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and "/" not in given:
        return _Source(Path(credentials, given), given)
    return _Source((directory / given).absolute(), None)


def _load(source: _Source, verb: str) -> bytearray:
    content = bytearray(LARGEST_TEXT + 1)
    try:
        count = _read(source, verb, content)
        if count > LARGEST_TEXT:
            raise source.fault(f"larger than {LARGEST_TEXT:,} bytes, so no key; give another file")
        with memoryview(content) as view, view[:count] as text:
            raw = decode(text)
    except BadKey as fault:
        raise source.fault(f"{fault}; {source.remedy(verb)}") from None
    finally:
        wipe(content)
    if not any(raw):
        raise source.fault(f"all-zero key; {source.remedy(verb)}")
    return raw


def _read(source: _Source, verb: str, content: bytearray) -> int:
    if "\0" in str(source.path):
        raise source.fault("no name of a file holds a zero byte; give another file")
    try:
        # To open a pipe would otherwise wait for its writer.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_status(source, os.fstat(descriptor))
            _check_directories(source)
            return read_all(descriptor, content)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise source.fault(_why(source, verb, error)) from None


def _why(source: _Source, verb: str, error: OSError) -> str:
    name = source.credential
    if isinstance(error, FileNotFoundError) and name is not None:
        return f"not found; add LoadCredential={name}:FILE to the unit, or give ./{name} for a file"
    if isinstance(error, FileNotFoundError):
        return f"not found; {source.remedy(verb)}"
    if isinstance(error, PermissionError):
        commands = f"chown {_ourselves()} {source.word} && chmod 600 {source.word}"
        return f"permission denied (uid {os.geteuid()}); run: {commands}, or use LoadCredential= of systemd"
    if error.errno == errno.ELOOP and source.path.is_symlink():
        return f"is a symbolic link; give the file itself, which is shown by: readlink -f {source.word}"
    return f"cannot be read ({os.strerror(error.errno or 0)}); give another file"


def _check_status(source: _Source, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise source.fault("is not a regular file; give a file")
    # systemd lets the user of a unit read a credential by an access list, whose mask shows as the bits of the group.
    forbidden = 0o077 if source.credential is None else 0o037
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise source.fault(f"has mode {mode:04o}; run: chmod 600 {source.word}")
    if status.st_uid not in (0, os.geteuid()):
        raise source.fault(f"belongs to uid {status.st_uid}; run: chown {_ourselves()} {source.word}")


def _check_directories(source: _Source) -> None:
    """Who can write a directory above the key can put another in its place."""
    given, real = source.path.parent, source.path.parent.resolve()
    for directory in dict.fromkeys((given, *given.parents, real, *real.parents)):
        mode = directory.stat().st_mode
        # In a sticky directory, such as /tmp, nobody can replace the file of another.
        if mode & 0o022 and not mode & stat.S_ISVTX:
            raise source.fault(
                f"its directory {directory} is writable by others; run: chmod go-w {shlex.quote(str(directory))}"
            )


def _ourselves() -> str:
    return str(os.geteuid()) if os.geteuid() else "root"


def _clamp(scalar: bytearray) -> None:
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64


def _equal_when_clamped(key: PresharedKey, private: PrivateKey) -> bool:
    clamped = PrivateKey(bytearray(key.raw))
    try:
        return clamped == private
    finally:
        clamped.clear()


def _shown(code: int) -> str:
    return f"character {quoted(chr(code))}" if code < 0x80 else f"byte 0x{code:02x}"
