"""NAME.stamp in the state directory: the timestamp below which no later start may send an initiation.

A responder refuses timestamps that are not greater than all it has seen from us. A host whose clock falls back, for
want of a battery, would so be locked out until its clock has caught up. Hence the floor of `proto.tai64n.Stamper` is
kept on disk, always ahead of what has been sent: however the process ends, no timestamp is used twice.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from tunneld import durable
from tunneld.proto import tai64n
from tunneld.proto.const import REJECT_AFTER_TIME

log = logging.getLogger(__name__)

# How far the floor on disk is ahead of use. While a session lives there is an initiation at least so often.
AHEAD = int(REJECT_AFTER_TIME)  # seconds

RENEWAL = 60  # seconds of AHEAD that are used up when it is renewed
RETRY = 60.0  # seconds after which a write that failed is repeated
PATIENCE = 1.0  # seconds for which the loop waits for a disk that may never answer

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

    Theory of operation. No stamp is used before a floor above it is on disk. If others write to it too, that can take
    a tenth of a second and more, in which the loop would carry no packet. So a thread renews the floor while the
    last one still has room, at most once in a minute however many initiations there are. The loop waits for the first
    initiation of a run, for one that comes later than AHEAD after the last, and when the clock leaps ahead.

    No error comes out of it, since a tunnel without memory is better than none. Nor does it wait for a disk for ever.
    """

    def __init__(self, file: StampFile, floor: bytes) -> None:
        """`floor` is what `file` holds: the label that was loaded."""
        self._file = file
        self._kept = floor
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="stamp")
        self._writing: _Write | None = None
        self._blocked_until = 0.0
        self._warned = False

    def keep(self, floor: bytes, now: float) -> None:
        """Call this with the Stamper's floor after each initiation is made, and before it is sent.

        `now` is in seconds since the boot. A write that fails or hangs is one warning, and is tried again after a
        minute.
        """
        self._settle(now, patience=0.0)
        while floor > self._kept and now >= self._blocked_until:
            self._begin(tai64n.later(floor, AHEAD))
            self._settle(now, patience=PATIENCE)
        if tai64n.later(floor, AHEAD - RENEWAL) > self._kept and now >= self._blocked_until:
            self._begin(tai64n.later(floor, AHEAD))

    def close(self, floor: bytes) -> None:
        """Keep exactly `floor`, once no initiation will follow: else each restart would run minutes ahead."""
        self._settle(0.0, patience=PATIENCE)
        if floor != self._kept:
            self._begin(floor)
            self._settle(0.0, patience=PATIENCE)

    def _begin(self, label: bytes) -> None:
        """Write `label`, unless another is being written: two at once would be in each other's way."""
        if self._writing is None:
            self._writing = _Write(label, self._disk.submit(self._file.save, label))

    def _settle(self, now: float, patience: float) -> None:
        """Take note of how a write ended. One that has not, after some `patience` in seconds, has failed."""
        if self._writing is None:
            return
        ended, _ = wait([self._writing.end], patience)
        if not ended:
            if patience:
                self._fail(now, f"the disk takes longer than {PATIENCE:g} s")
            return
        label, end = self._writing
        self._writing = None
        if isinstance(error := end.exception(), OSError):
            self._fail(now, error.strerror)
            return
        end.result()  # any other exception is a bug
        self._kept = label
        self._blocked_until = 0.0
        self._warned = False

    def _fail(self, now: float, why: str | None) -> None:
        self._blocked_until = now + RETRY
        if not self._warned:
            self._warned = True
            message = "cannot write %s (%s): if the clock falls back before the next start, peers refuse us"
            log.warning(message, self._file.path, why)


class _Write(NamedTuple):
    """A label that a thread writes."""

    label: bytes
    end: Future[None]


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
