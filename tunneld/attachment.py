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
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, NoReturn

from tunneld.config import InterfaceConfig
from tunneld.control import run_dir
from tunneld.edge import clock
from tunneld.edge.device import Device, DeviceLostError
from tunneld.netcfg.apply import apply
from tunneld.netcfg.journal import Journal
from tunneld.netcfg.model import KernelError, Wish
from tunneld.proto.backoff import Backoff
from tunneld.proto.const import ETHERNET_BYTES
from tunneld.proto.errors import ConfigErrors, DeviceError
from tunneld.proto.plain import PlainTunnel
from tunneld.pump import Pump

if TYPE_CHECKING:
    from tunneld.netcfg.kernel import Kernel

log = logging.getLogger("tunneld.device")

# A device that stood this long, in seconds, is repaired at once; the delays start over.
HELD = 10.0


class Attachment:
    """Keeps the device of one tunnel in the pump."""

    def __init__(
        self,
        pump: Pump,
        tunnel: PlainTunnel,
        kernel: Kernel,
        interface: InterfaceConfig,
        *,
        wish: Wish | None,
        namespace: int | None,
        device_class: type[Device],
        backoff: Backoff,
    ) -> None:
        """`wish` is what the kernel must look like, None to leave it alone; `namespace` a descriptor or None."""
        self._pump = pump
        self._tunnel = tunnel
        self._kernel = kernel
        self._interface = interface
        self._wish = wish
        self._namespace = namespace
        self._device_class = device_class
        self._backoff = backoff
        self._undo = AsyncExitStack()
        self.device: Device | None = None
        self.trouble = "starting"
        self.mtu = 0

    async def open(self) -> None:
        """Open the device and apply the plan. Raises DeviceError, KernelError or ConfigErrors; nothing is left then."""
        name, mode = self._interface.name, self._interface.mode
        async with AsyncExitStack() as undo:
            device = self._device_class.open(name, mode, namespace=self._namespace)
            undo.callback(self._close, device)
            if not device.persistent:
                log.info("ip tuntap add %s mode %s", name, mode)
            if self._wish is not None:
                applied = await apply(self._kernel, self._wish, Journal(run_dir(), self._wish.name))
                undo.push_async_callback(applied.undo)
            await self._learn_mtu(name)
            self.device, self.trouble = device, ""
            self._undo = undo.pop_all()

    async def close(self) -> None:
        """Undo the plan and close the device, in that order; harmless when not open."""
        self.device = None
        await self._undo.aclose()

    async def keep(self) -> NoReturn:
        """Drive the open device, and repair it when it is lost. Raises DeviceLostError if that is not wanted."""
        while True:
            since = clock.now()
            try:
                await self._drive()
            except DeviceLostError as lost:
                if self._interface.on_loss == "stop":
                    raise
                self.trouble = str(lost)
                log.warning("%s; repairing it", lost)
            if clock.now() - since >= HELD:
                self._backoff.reset()
            else:
                await asyncio.sleep(self._backoff.delay())
            await self._repair()

    async def _drive(self) -> None:
        assert self.device is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump.drive(self.device), name="drive")
                tasks.create_task(self._watch(self.device), name="watch")
        except* DeviceLostError as lost:
            raise lost.exceptions[0] from None

    async def _watch(self, device: Device) -> NoReturn:
        async with aclosing(self._kernel.watch()) as changes:
            async for change in changes:
                if change.name != device.name:
                    continue
                if change.deleted:
                    raise DeviceLostError(f"{device.name}: the device was deleted")
                if not change.up and self._wish is not None:
                    raise DeviceLostError(f"{device.name}: the device was set down")
                self._set_mtu(change.mtu)
        raise AssertionError("an endless watch has ended")

    async def _repair(self) -> None:
        while True:
            await self.close()
            try:
                await self.open()
            except (DeviceError, KernelError, ConfigErrors) as error:
                self.trouble = str(error)
                delay = self._backoff.delay()
                log.error("cannot repair the device: %s; trying again in %.1f s", error, delay)
                await asyncio.sleep(delay)
            else:
                log.info("%s: repaired", self._interface.name)
                return

    async def _learn_mtu(self, name: str) -> None:
        link = (await self._kernel.observe()).link(name)
        if link is None:
            raise DeviceLostError(f"{name}: the device was deleted")
        self._set_mtu(link.mtu)

    def _set_mtu(self, mtu: int) -> None:
        self.mtu = mtu
        self._tunnel.max_packet = mtu + (ETHERNET_BYTES if self._interface.mode == "tap" else 0)

    def _close(self, device: Device) -> None:
        if self._interface.persist and not device.persistent:
            device.set_persist(True)
        device.close()
