"""The daemon inside this process: its order, its exit codes, its lines, its answers."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from tunneld import daemon, instance
from tunneld.config import Config, Endpoint, InterfaceConfig, NetworkConfig, PeerConfig, TunnelConfig
from tunneld.control import NotRunning, PeerStatus, Status, request, run_dir, socket_path
from tunneld.daemon import Daemon, StartError
from tunneld.edge import clock, ifinfo, tuntap
from tunneld.ends import IN_CLEAR
from tunneld.lab.child import readable
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import AddressAdd, LinkSet

LISTEN = Endpoint("127.0.0.1", 55555)
CONFIG = Config(
    name="d",
    path=None,
    tunnel=TunnelConfig("plain", "tcp", LISTEN),
    interface=InterfaceConfig("d0", "tun", addresses=(ip_interface("10.9.0.1/24"),), mtu=1400),
    network=NetworkConfig(),
    peers=(PeerConfig("far"),),
)

pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.fixture(autouse=True)
def _own_run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """What systemd would hear."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "systemd"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "systemd"))
        yield sock


@asynccontextmanager
async def running(config: Config = CONFIG):
    """A daemon that is ready; at the end it is asked to stop, unless it has ended by itself."""
    made = Daemon(config)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.main())
        await until(lambda: socket_path(config.name).exists() or task.done())
        yield made
        if not task.done():
            await asyncio.to_thread(request, socket_path(config.name), {"request": "stop"})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 (files and states tell nobody when they change)
            await asyncio.sleep(0.005)


async def heard(sock: socket.socket, wanted: str) -> list[str]:
    """The assignments that come, `wanted` being the last."""
    said: list[str] = []
    async with asyncio.timeout(5.0):
        while wanted not in said:
            await readable(sock.fileno())
            said += sock.recv(4096).decode().split("\n")
    return said


async def test_it_starts_in_order_and_stops_in_reverse(caplog):
    async with running():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        IN_CLEAR,
        "ip tuntap add d0 mode tun",
        "ip link set dev d0 mtu 1400",
        "ip address add 10.9.0.1/24 dev d0",
        "ip link set dev d0 up",
        "peer far: listening: waiting on tcp 127.0.0.1:55555",
        "stopping",
        "ip link set dev d0 down",
        "ip address del 10.9.0.1/24 dev d0",
        "ip link set dev d0 mtu 1500",
        "ip tuntap del d0 mode tun",
    ]


async def test_nothing_is_left_when_it_has_stopped():
    before = set(os.listdir("/proc/self/fd"))
    async with running():
        assert ifinfo.lookup("d0") is not None
        assert instance.is_held(run_dir(), "d")
    assert ifinfo.lookup("d0") is None
    assert not instance.is_held(run_dir(), "d")
    assert not socket_path("d").exists()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_each_of_the_three_signals_stops_it(number):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Daemon(CONFIG).main())
        await until(socket_path("d").exists)
        os.kill(os.getpid(), number)


async def test_systemd_hears_ready_after_everything_stands_and_stopping_before_it_falls(systemd):
    async with running():
        await heard(systemd, "READY=1")
        assert ifinfo.lookup("d0") is not None
        await heard(systemd, "STATUS=listening: waiting on tcp 127.0.0.1:55555")
    await heard(systemd, "STOPPING=1")


async def test_the_status_has_every_field_and_says_when_the_device_is_gone():
    async with running() as made:
        status = made.status()
        assert status.keys() == Status.__annotations__.keys()
        assert [peer.keys() for peer in status["peers"]] == [PeerStatus.__annotations__.keys()]
        assert (status["interface"], status["mtu"]) == ("d0", 1400)
        await until(lambda: made.status()["state"] == "listening")
        async with Kernel.open() as kernel:
            await kernel.execute(LinkSet("d0", "state", "down", "up"))
        await until(lambda: made.status()["state"] == "down")
        assert made.status()["reason"] == "d0: the device was set down"


async def test_a_stop_at_any_moment_of_a_loss_ends_it():
    chance = random.Random(5)
    for _ in range(6):
        async with running(), Kernel.open() as kernel:
            await kernel.execute(LinkSet("d0", "state", "down", "up"))
            await asyncio.sleep(chance.choice((0.0, 0.2)) + chance.uniform(0, 0.02))
        assert ifinfo.lookup("d0") is None


async def test_what_holds_the_name_the_port_or_the_device_is_named_and_nothing_else_is_touched(tmp_path):
    async with running():
        for config, why in (
            (CONFIG, f"d runs already \\(pid {os.getpid()}\\)"),
            (replace(CONFIG, name="e"), f"cannot listen on tcp 127.0.0.1:55555: already used by pid {os.getpid()} "),
        ):
            with pytest.raises((StartError, instance.AlreadyRunsError), match=why):
                await Daemon(config).main()
    assert not socket_path("e").exists()


def refused(caplog, config: Config) -> tuple[int, str]:
    """The exit code of a start that fails, and its only line."""
    code = daemon.run(config)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    return code, line


def test_a_device_of_the_other_mode_is_1(caplog):
    tuntap.add("d0", "tap")
    try:
        code, line = refused(caplog, CONFIG)
    finally:
        tuntap.delete("d0")
    assert (code, line) == (1, 'd0: is a TAP device, not a TUN; use mode "tap" or another name')


def test_an_address_in_the_way_is_2(caplog):
    fd = tuntap.attach("other0", "tun")
    try:
        asyncio.run(give("other0", "10.9.0.77/24"))
        code, line = refused(caplog, CONFIG)
    finally:
        os.close(fd)
    assert (code, line) == (2, "addresses: 10.9.0.1/24 already on other0 as 10.9.0.77/24; choose another subnet")


async def give(link: str, address: str) -> None:
    async with Kernel.open() as kernel:
        await kernel.execute(AddressAdd(link, ip_interface(address)))


def test_a_namespace_that_is_not_there_is_1(caplog):
    code, line = refused(caplog, replace(CONFIG, interface=replace(CONFIG.interface, netns="nowhere")))
    assert (code, line) == (1, "netns nowhere: No such file or directory; make it with: ip netns add nowhere")


def test_a_directory_that_cannot_be_used_is_1(caplog, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "file"))
    code, line = refused(caplog, CONFIG)
    assert (code, line) == (
        1,
        f"cannot use {tmp_path / 'file'}: File exists; set RUNTIME_DIRECTORY to another directory",
    )


def test_a_path_that_is_too_long_for_a_socket_is_1(caplog, tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 120)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(deep))
    code, line = refused(caplog, CONFIG)
    assert code == 1
    assert line.startswith(f"cannot make {deep}/d.sock: ")
    assert ifinfo.lookup("d0") is None


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_stop_over_the_control_socket_is_0(loop):
    asker = threading.Thread(target=ask_to_stop)
    asker.start()
    assert daemon.run(CONFIG, loop=loop) == 0
    asker.join()


def ask_to_stop() -> None:
    deadline = clock.now() + 5.0
    while clock.now() < deadline:
        try:
            assert request(socket_path("d"), {"request": "stop"}) == {"stopping": True}
        except NotRunning:
            continue
        return
