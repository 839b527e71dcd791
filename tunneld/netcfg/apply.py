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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.netcfg.journal import Journal, Record
from tunneld.netcfg.model import KernelError, Wish
from tunneld.netcfg.operation import AddressAdd, Operation, spell
from tunneld.netcfg.plan import Step, plan
from tunneld.netcfg.sweep import Sweep, leftovers, sweep

if TYPE_CHECKING:
    from tunneld.netcfg.kernel import Kernel

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
    observed = await kernel.observe()
    steps = plan(wish, observed)
    involved = {wish.interface, wish.bridge, *(observed.ports(wish.bridge) if wish.bridge else ())}
    links = {link.name: link.index for link in observed.links if link.name in involved}
    if planned := _reverse(steps):
        journal.write(Record(wish.interface, wish.netns, links, planned))
    made: list[Step] = []
    try:
        for step in steps:
            await _make(kernel, step, wish.netns, made)
        await _verify(kernel, wish)
    except BaseException:
        if await _execute(kernel, _reverse(made), wish.netns):
            journal.remove()
        raise
    return Applied(kernel, Record(wish.interface, wish.netns, links, planned), journal)


class Applied:
    """The changes that were made for one wish; `undo` takes them back."""

    def __init__(self, kernel: Kernel, record: Record, journal: Journal) -> None:
        self._kernel = kernel
        self._record = record
        self._journal = journal

    async def undo(self) -> None:
        """Take everything back that is still there and still ours. What fails is logged, and stays in the journal.

        Raises KernelError when the kernel cannot be looked at.
        """
        record = self._record
        found = sweep(record.undo, record.links, await self._kernel.observe())
        for line in found.spared:
            log.warning("%s", line)
        if await _execute(self._kernel, found.operations, record.netns):
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
            log.warning("%s is of another network namespace (%s): not undone", journal.path, record.netns or "ours")
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


async def _make(kernel: Kernel, step: Step, netns: str | None, made: list[Step]) -> None:
    """Execute a step and add it to `made`, as well when it is not known whether it happened."""
    log.info("%s", spell(step.operation.command, netns))
    made.append(step)
    try:
        await kernel.execute(step.operation)
    except KernelError:
        made.pop()
        raise


async def _verify(kernel: Kernel, wish: Wish) -> None:
    for delay in _LOOK_AGAIN_AFTER:
        await asyncio.sleep(delay)
        left = plan(wish, await kernel.observe())
        if not left:
            return
    command = spell(left[0].operation.command, wish.netns)
    raise KernelError(f"{command}: the kernel agreed, but it is not so; does another program undo it?")


def _reverse(steps: Sequence[Step]) -> tuple[Operation, ...]:
    return tuple(operation for step in reversed(steps) for operation in step.undo)


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
