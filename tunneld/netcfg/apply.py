"""Make the kernel what a wish says, and take it back.

Theory of operation. observe → plan (pure) → journal → each step, its undo noted before it is made → observe again,
and the plan must be empty. Whatever goes wrong, cancellation included, the steps made so far are undone in reverse
and the cause is raised again. A step that the kernel refused has not happened and is not undone; one whose answer
did not arrive may have happened, and its undo finds nothing to do if it has not.

The journal holds the undo of every step from before the first until after the last undo, so a kill -9 at any moment
leaves the way back on disk; `clear` goes it, from `tunneld down` or at the next start.

Not handled: a foreign change made between two of our steps. The verification sees it and rolls back.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from tunneld.netcfg.journal import Journal, Record
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.model import KernelError, Wish
from tunneld.netcfg.operation import AddressAdd, Operation, spell
from tunneld.netcfg.plan import Step, plan
from tunneld.netcfg.sweep import Sweep, leftovers, sweep

log = logging.getLogger(__name__)

_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
# rtnetlink may answer before its change can be seen.
_LOOK_AGAIN_AFTER = (0.0, 0.01, 0.05, 0.2, 0.5)


async def apply(kernel: Kernel, wish: Wish, journal: Journal) -> Applied:
    """Sweep what an earlier run left, then make every change that the wish needs. The device is open already.

    Raises ConfigErrors when something foreign is in the way (nothing was touched then), KernelError when the kernel
    refuses a step, DeviceError when the device is gone; the kernel is then as before.
    """
    await clear(kernel, wish.name, wish.interface, wish.netns, journal)
    applied = Applied(kernel, wish, journal)
    await applied.repair()
    return applied


class Applied:
    """The changes that were made for one wish; `undo` takes them back."""

    def __init__(self, kernel: Kernel, wish: Wish, journal: Journal) -> None:
        self._kernel = kernel
        self._wish = wish
        self._journal = journal
        self._undo: tuple[Operation, ...] = ()  # what is to be executed first stands first
        self._links: dict[str, int] = {}

    async def repair(self) -> None:
        """Make what is missing, for one after the device was made anew. Raises as `apply` does, and has then
        undone what it did itself, and only that.
        """
        observed = await self._kernel.observe()
        steps = plan(self._wish, observed)
        if not steps:
            return
        now = {link.name: link.index for link in observed.links}
        # What was done to a device that has gone went with it.
        before = tuple(one for one in self._undo if self._links.get(one.link, now.get(one.link)) == now.get(one.link))
        self._links = {name: now[name] for name in (self._wish.interface, self._wish.bridge) if name in now}
        planned = tuple(operation for step in reversed(steps) for operation in step.undo)
        self._write(_first(planned, before))
        self._undo = before
        try:
            for step in steps:
                await self._make(step)
            await self._verify()
        except BaseException:
            made = self._undo[: len(self._undo) - len(before)]
            self._undo = before
            if await _execute(self._kernel, made, self._wish.netns):
                self._write(before)
            raise
        self._undo = _first(self._undo, ())

    async def undo(self) -> None:
        """Take everything back that is still there and still ours. What fails is logged, and stays in the journal.

        Raises KernelError when the kernel cannot be looked at.
        """
        found = sweep(self._undo, self._links, await self._kernel.observe())
        for line in found.spared:
            log.warning("%s", line)
        if await _execute(self._kernel, found.operations, self._wish.netns):
            self._undo = ()
            self._journal.remove()

    async def _make(self, step: Step) -> None:
        log.info("%s", spell(step.operation.command, self._wish.netns))
        before = self._undo
        self._undo = step.undo + before
        try:
            await self._kernel.execute(step.operation)
        except KernelError:
            self._undo = before
            raise

    async def _verify(self) -> None:
        for delay in _LOOK_AGAIN_AFTER:
            await asyncio.sleep(delay)
            left = plan(self._wish, await self._kernel.observe())
            if not left:
                return
        command = spell(left[0].operation.command, self._wish.netns)
        raise KernelError(f"{command}: the kernel agreed, but it is not so; does another program undo it?")

    def _write(self, undo: tuple[Operation, ...]) -> None:
        if undo:
            self._journal.write(Record(self._wish.interface, self._wish.netns, self._links, undo))
        else:
            self._journal.remove()


@dataclass(frozen=True, slots=True)
class Cleared:
    """What `clear` did, as `ip` commands; what it left alone, one line each; and whether nothing failed."""

    commands: tuple[str, ...]
    spared: tuple[str, ...]
    clean: bool


async def clear(kernel: Kernel, name: str, interface: str | None, netns: str | None, journal: Journal) -> Cleared:
    """Sweep what a killed run of the tunnel `name` left: by its journal, and by our tags. Nobody may be running it.

    `netns` is the namespace of `kernel`, by name. Raises KernelError when the kernel cannot be looked at.
    """
    record = journal.read()
    by_journal = Sweep((), ())
    clean = True
    if record is not None:
        if record.netns != netns:
            log.warning(
                "an earlier run changed the namespace %s, and was killed: not undone", record.netns or "itself"
            )
        else:
            by_journal = sweep(record.undo, record.links, await kernel.observe())
            clean = await _execute(kernel, by_journal.operations, netns)
    by_tags = sweep(leftovers(name, interface, observed := await kernel.observe()), {}, observed)
    clean = await _execute(kernel, by_tags.operations, netns) and clean
    spared = tuple(dict.fromkeys(by_journal.spared + by_tags.spared))
    for line in spared:
        log.warning("%s", line)
    if clean:
        journal.remove()
    commands = [spell(operation.command, netns) for operation in (*by_journal.operations, *by_tags.operations)]
    return Cleared(tuple(commands), spared, clean)


async def _execute(kernel: Kernel, undo: Iterable[Operation], netns: str | None) -> bool:
    """Execute each, whatever becomes of the others; True when all is as it should be. Failures are logged."""
    clean = True
    for operation in undo:
        log.info("%s", spell(operation.command, netns))
        try:
            await kernel.execute(operation)
        except KernelError as error:
            if error.errno in _GONE or (isinstance(operation, AddressAdd) and error.errno == errno.EEXIST):
                continue
            clean = False
            log.error("could not be undone: %s", error)
    return clean


def _first(one: tuple[Operation, ...], other: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Both in order, each operation once: repeated repairs must not make the way back longer and longer."""
    return tuple(dict.fromkeys(one + other))
