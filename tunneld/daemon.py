"""The daemon: everything is put together here, started in order, and taken apart in exact reverse.

Theory of operation

The order of a start: lock, sockets, device, kernel, control socket, then packets. What can fail for the operator's
sake (a name in use, a port taken, a device that is not ours) comes before the first change to the kernel; everything
pushes its undoing on one stack, and the stack unwinds on every way out.

Three tasks then run until a signal: the link, which reconnects by itself, the device, which is repaired or ends the
run, and one that tells in the log what the drops mean. Any other exception is a bug of ours: it ends the process with
a traceback, after the stack has unwound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any

from tunneld import instance
from tunneld import log as logs
from tunneld.attachment import Attachment
from tunneld.config import Config
from tunneld.config.locate import locate
from tunneld.control import ControlServer, Handler, run_dir, socket_path
from tunneld.edge import address, clock, netns, ports, sdnotify, tcp, udp
from tunneld.edge.device import Device
from tunneld.edge.trace import TracedDevice
from tunneld.ends import Plain, Runs, Sealed
from tunneld.links.state import PeerState, State
from tunneld.netcfg.model import KernelError, Wish
from tunneld.proto.backoff import Backoff
from tunneld.proto.errors import ConfigErrors, DeviceError
from tunneld.tasks import bare

log = logging.getLogger("tunneld")

# Seconds after which a task that was cancelled is cancelled again. What is undone after it is not waited for: it is
# taken up where it was left.
CANCEL_AGAIN = 1.0


class StartError(Exception):
    """The daemon cannot start. `str()` is one line for the operator."""


def run(config: Config, *, loop: str = "uvloop", debug: bool = False, kernel_changes: bool = True) -> int:
    """Run the tunnel until SIGTERM, SIGINT or SIGHUP; returns the exit code.

    `debug` prints a line for every packet. Without `kernel_changes` the device is used as it is: somebody else
    gives it its addresses.
    """
    logs.setup(logging.INFO)
    daemon = Daemon(config, debug=debug, kernel_changes=kernel_changes)
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(daemon.main())
    except ConfigErrors as faults:
        # The kernel showed these, and knows nothing of lines.
        found = faults if config.path is None else locate(config.path, faults)
        for fault in found.errors:
            log.error("%s", fault)
        return 2
    except (StartError, DeviceError, KernelError, instance.AlreadyRunsError) as failure:
        log.error("%s", failure)
        return 1
    return 0


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop called "uvloop" or "asyncio". Raises StartError when uvloop is not installed."""
    if loop == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise StartError("uvloop is not installed; run with --loop asyncio") from None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended.

    Once is not enough: before Python 3.13, a TaskGroup that fails in the turn in which it is cancelled raises the
    failure alone, and who handles it goes on.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)


class Daemon:
    """One tunnel from start to stop."""

    def __init__(self, config: Config, *, debug: bool = False, kernel_changes: bool = True) -> None:
        self._config = config
        self._device_class = TracedDevice if debug else Device
        self._kernel_changes = kernel_changes
        self._states = {peer.name: PeerState(peer.name, clock.now, self._tell_systemd) for peer in config.peers}
        self._end = Sealed(config, self._states) if config.tunnel.sealed else Plain(config, self._states)

    async def main(self) -> None:
        """Run until a signal.

        Raises StartError, AlreadyRunsError, DeviceError, KernelError or ConfigErrors, each the operator's to mend.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack:
            self._hold_name(stack)
            self._link = self._open_link(stack)
            await self._open_attachment(stack)
            self._open_control(stack, stop)
            stack.callback(sdnotify.notify, "STOPPING=1", "STATUS=stopping")
            await self._serve(stop)

    async def _serve(self, stop: asyncio.Event) -> None:
        with bare(DeviceError, KernelError):
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._link.run(), name="link"),
                    tasks.create_task(self._attachment.keep(), name="device"),
                    tasks.create_task(self._end.tell(), name="advice"),
                ]
                sdnotify.notify("READY=1")
                await stop.wait()
                log.info("stopping")
                self._end.say_goodbye()
                await end(running)

    def _hold_name(self, stack: AsyncExitStack) -> None:
        directory = run_dir()
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(instance.hold(directory, self._config.name))
        except OSError as error:
            raise StartError(
                f"cannot use {directory}: {address.said(error)}; set RUNTIME_DIRECTORY to another directory"
            ) from None

    def _open_link(self, stack: AsyncExitStack) -> Runs:
        sock = None if self._config.tunnel.listen is None else self._listen(stack)
        return self._end.open_link(sock)

    def _listen(self, stack: AsyncExitStack) -> socket.socket:
        transport, listen = self._config.tunnel.transport, self._config.tunnel.listen
        assert listen is not None
        try:
            sock = tcp.listen(listen) if transport == "tcp" else udp.open_bound(listen)
        except OSError as error:
            raise StartError(ports.refusal(error, transport, listen)) from None
        stack.callback(sock.close)
        return sock

    async def _open_attachment(self, stack: AsyncExitStack) -> None:
        # Not above: pyroute2 costs 0.1 s, and a port that is taken need not wait for it.
        from tunneld.netcfg.kernel import Kernel

        interface = self._config.interface
        namespace = None if interface.netns is None else self._open_namespace(interface.netns, stack)
        self._attachment = Attachment(
            self._end.pump,
            self._end.tunnel,
            await stack.enter_async_context(Kernel.open(namespace)),
            interface,
            wish=Wish.from_config(self._config) if self._kernel_changes else None,
            namespace=namespace,
            device_class=self._device_class,
            backoff=Backoff(random.random),
            changed=self._tell_systemd,
        )
        stack.push_async_callback(self._attachment.close)
        await self._attachment.open()

    def _open_namespace(self, name: str, stack: AsyncExitStack) -> int:
        try:
            fd = netns.open_named(name)
        except OSError as error:
            raise StartError(f"netns {name}: {address.said(error)}; make it with: ip netns add {name}") from None
        stack.callback(os.close, fd)
        return fd

    def _open_control(self, stack: AsyncExitStack, stop: asyncio.Event) -> None:
        def asked_to_stop(_: Mapping[str, Any]) -> dict[str, Any]:
            stop.set()
            return {"stopping": True}

        path = socket_path(self._config.name)
        handlers: dict[str, Handler] = {
            "status": lambda _: self.status(),
            "stop": asked_to_stop,
            "reset-timestamp": self._end.reset_timestamp,
        }
        server = ControlServer(path, handlers)
        try:
            server.start()
        except OSError as error:
            raise StartError(
                f"cannot make {path}: {address.said(error)}; set RUNTIME_DIRECTORY to another directory"
            ) from None
        stack.callback(server.close)

    def status(self) -> Mapping[str, Any]:
        """The answer to the request "status"; docs/OPERATING.md gives the meaning of each key."""
        return self._end.teller.status(mtu=self._attachment.mtu, trouble=self._attachment.trouble)

    def _tell_systemd(self) -> None:
        state, reason = self._end.teller.state()
        trouble = self._attachment.trouble
        sdnotify.notify(f"STATUS={State.DOWN.value if trouble else state.state.value}: {trouble or reason}")
