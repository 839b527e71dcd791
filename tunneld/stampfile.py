"""NAME.stamp in the state directory: the timestamp below which no later start may send an initiation.

A responder refuses timestamps that are not greater than all it has seen from us. A host whose clock falls back, for
want of a battery, would so be locked out until its clock has caught up. Hence the floor of `proto.tai64n.Stamper` is
kept on disk, always ahead of what has been sent: however the process ends, no timestamp is used twice.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tunneld import durable
from tunneld.proto import tai64n

log = logging.getLogger(__name__)

# How far the floor on disk is ahead of use. So long one write lasts, and so long one that failed is not repeated.
AHEAD = 60  # seconds

LARGEST = 100  # bytes; a label is 24 hexadecimal digits
_YEAR_10000 = 253_402_300_800  # seconds since 1970


def state_dir() -> Path:
    """Where a tunnel keeps what must outlive a reboot: the unit's state directory, or /var/lib/tunneld.

    Who is not root has a directory of his own. Nothing is created here.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    own = os.environ.get("XDG_STATE_HOME", "")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/tunneld")
    # A relative one is invalid, and to be ignored, says the XDG Base Directory Specification.
    return (Path(own) if own.startswith("/") else Path.home() / ".local/state") / "tunneld"


class StampFile:
    """The file at `path`: one TAI64N label in hexadecimal on a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> bytes:
        """The label; tai64n.NEVER when there is none, or none that can be used, which is warned about.

        One that lies in the future is a label like any other: the peers have seen timestamps that are near it, and
        would refuse those of a clock that is right again.
        """
        try:
            with open(self.path, "rb") as file:
                return _decode(file.read(LARGEST + 1))
        except FileNotFoundError:
            return tai64n.NEVER
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            log.warning("%s cannot be used (%s): peers refuse us if our clock has fallen back", self.path, why)
            return tai64n.NEVER

    def save(self, label: bytes) -> None:
        """Keep `label` in place of what is there, durably. Raises OSError; what is there is kept then."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(self.path, label.hex().encode() + b"\n")


class Keeper:
    """Keeps the floor of one Stamper, which began at `file.load()`, in `file`.

    No error comes out of it, since a tunnel without memory is better than none. A write waits for the disk; there is
    at most one in a minute while the clock runs as clocks do, however many initiations there are.
    """

    def __init__(self, file: StampFile, floor: bytes) -> None:
        """`floor` is what `file` holds: the label that was loaded."""
        self._file = file
        self._kept = floor
        self._blocked_until = 0.0
        self._warned = False

    def keep(self, floor: bytes, now: float) -> None:
        """Call this with the Stamper's floor after each initiation is made, and before it is sent.

        `now` is in seconds since the boot. A write that fails is one warning, and is tried again after a minute.
        """
        if floor <= self._kept or now < self._blocked_until:
            return
        if self._save(tai64n.later(floor, AHEAD)):
            self._warned = False
        else:
            self._blocked_until = now + AHEAD

    def close(self, floor: bytes) -> None:
        """Keep exactly `floor`, once no initiation will follow: else each restart would run a minute ahead."""
        if floor != self._kept:
            self._save(floor)

    def _save(self, label: bytes) -> bool:
        try:
            self._file.save(label)
        except OSError as error:
            if not self._warned:
                self._warned = True
                message = "cannot write %s (%s): if the clock falls back before the next start, peers refuse us"
                log.warning(message, self._file.path, error.strerror)
            return False
        self._kept = label
        return True


def _decode(text: bytes) -> bytes:
    """Raises ValueError, which says what is wrong."""
    try:
        label = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ValueError("not hexadecimal") from None
    if len(label) != tai64n.LABEL.size:
        raise ValueError(f"{len(label)} bytes, not {tai64n.LABEL.size}")
    whole, nanoseconds = tai64n.LABEL.unpack(label)
    if not (0 <= whole - tai64n.BASE < _YEAR_10000 and nanoseconds < tai64n.NANOSECONDS):
        raise ValueError("a timestamp of no year that we shall see")
    return label
