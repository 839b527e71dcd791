"""The device and its place in the kernel: opened, configured, watched, and repaired when it is lost.

Theory of operation

An attachment is an open device and the undo list of the plan that was applied for it; both are made together and
taken apart together, in reverse. The device is lost when its descriptor says so (deleted) or when the kernel tells
that the link was set down; one cannot see the other. With `on_loss = "repair"` the whole attachment is then undone
and made anew, at once if it had stood for a while, else after a growing delay, so that a fight with somebody who
keeps deleting it costs nothing. A device that was configured by hand is never repaired: its addresses went with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, NoReturn, Protocol

from tunneld.config import InterfaceConfig
from tunneld.control import run_dir
from tunneld.edge import clock
from tunneld.edge.device import Device, DeviceLostError
from tunneld.netcfg.apply import Applied, apply
from tunneld.netcfg.journal import Journal
from tunneld.netcfg.model import KernelError, Wish
from tunneld.netcfg.operation import spell
from tunneld.proto.backoff import Backoff
from tunneld.proto.const import ETHERNET_BYTES
from tunneld.proto.errors import ConfigErrors, DeviceError
from tunneld.pump import Pump
from tunneld.tasks import bare

if TYPE_CHECKING:
    from tunneld.netcfg.kernel import Kernel

log = logging.getLogger("tunneld.device")

# A device that stood this long, in seconds, is repaired at once; the delays start over.
HELD = 10.0


class Sized(Protocol):
    """A tunnel that has to know the longest packet that the device takes, in bytes."""

    max_packet: int


class Attachment:
    """Keeps the device of one tunnel in the pump."""

    def __init__(
        self,
        pump: Pump,
        tunnel: Sized,
        kernel: Kernel,
        interface: InterfaceConfig,
        *,
        wish: Wish | None,
        namespace: int | None,
        device_class: type[Device],
        backoff: Backoff,
        changed: Callable[[], None],
    ) -> None:
        """`wish` is what the kernel must look like, None to leave it alone; `namespace` a descriptor or None.

        `changed` is called after `device` or `trouble` has changed.
        """
        self._pump = pump
        self._tunnel = tunnel
        self._kernel = kernel
        self._interface = interface
        self._wish = wish
        self._namespace = namespace
        self._device_class = device_class
        self._backoff = backoff
        self._changed = changed
        self._held: Device | None = None
        self._applied: Applied | None = None
        self.device: Device | None = None
        self.trouble = "starting"
        self.mtu = 0
        self._index = 0

    async def open(self) -> None:
        """Open the device and apply the plan.

        Raises DeviceError, KernelError or ConfigErrors; nothing is left then.
        """
        name, mode = self._interface.name, self._interface.mode
        device = self._held = self._device_class.open(name, mode, namespace=self._namespace)
        try:
            if not device.persistent:
                log.info("%s", spell(f"ip tuntap add {name} mode {mode}", self._interface.netns))
            if self._wish is not None:
                self._applied = await apply(self._kernel, self._wish, Journal(run_dir(), self._wish.name))
            await self._learn_link(name)
            if self._interface.persist and not device.persistent:
                device.set_persist(True)
        except BaseException:
            await self.close()
            raise
        self.device = device
        self._tell("")

    async def close(self) -> None:
        """Undo the plan and close the device, in that order; harmless when not open.

        Cancelled or failed, it may be called again, and then undoes what is left. Raises KernelError.
        """
        self.device = None
        try:
            if self._applied is not None:
                await self._applied.undo()
                self._applied = None
        finally:
            if self._held is not None:
                if not self._held.persistent and not self.trouble:
                    name, mode = self._interface.name, self._interface.mode
                    log.info("%s", spell(f"ip tuntap del {name} mode {mode}", self._interface.netns))
                self._held.close()
                self._held = None

    async def keep(self) -> NoReturn:
        """Drive the open device, and repair it when it is lost.

        Raises DeviceLostError if that is not wanted, KernelError when the kernel does not answer any more.
        """
        while True:
            since = clock.now()
            try:
                await self._drive()
            except DeviceLostError as lost:
                if self._interface.on_loss == "stop":
                    raise
                log.warning("%s; repairing it", lost)
                self.device = None
                self._tell(str(lost))
            await self.close()
            if clock.now() - since >= HELD:
                self._backoff.reset()
            else:
                await asyncio.sleep(self._backoff.delay())
            await self._repair()

    async def _drive(self) -> NoReturn:
        assert self.device is not None
        with bare(DeviceLostError, KernelError):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump.drive(self.device), name="drive")
                tasks.create_task(self._watch(self.device), name="watch")
        raise AssertionError("a task that never ends has ended")

    async def _watch(self, device: Device) -> NoReturn:
        async with aclosing(self._kernel.watch()) as changes:
            async for change in changes:
                if change.index != self._index:
                    continue
                if change.deleted:
                    raise DeviceLostError(f"{device.name}: the device was deleted")
                if change.name != device.name:
                    raise DeviceLostError(f"{device.name}: the device was renamed to {change.name}")
                if not change.up and self._wish is not None:
                    # A deletion begins by setting the device down, and the kernel lets nobody look until it is over.
                    there = (await self._kernel.observe()).link(device.name) is not None
                    raise DeviceLostError(f"{device.name}: the device was {'set down' if there else 'deleted'}")
                self._set_mtu(change.mtu)
        raise AssertionError("an endless watch has ended")

    async def _repair(self) -> None:
        while True:
            try:
                await self.open()
            except (DeviceError, KernelError, ConfigErrors) as error:
                delay = self._backoff.delay()
                trouble = "; ".join(str(error).splitlines())  # of a ConfigErrors, each fault is a line
                log.error("cannot repair the device: %s; trying again in %.1f s", trouble, delay)
                self._tell(trouble)
                await asyncio.sleep(delay)
            else:
                log.info("%s: repaired", self._interface.name)
                return

    async def _learn_link(self, name: str) -> None:
        link = (await self._kernel.observe()).link(name)
        if link is None:
            raise DeviceLostError(f"{name}: the device was deleted")
        self._index = link.index
        self._set_mtu(link.mtu)

    def _set_mtu(self, mtu: int) -> None:
        self.mtu = mtu
        self._tunnel.max_packet = mtu + (ETHERNET_BYTES if self._interface.mode == "tap" else 0)

    def _tell(self, trouble: str) -> None:
        self.trouble = trouble
        self._changed()
