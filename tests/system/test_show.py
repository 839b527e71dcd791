"""What a running tunnel says of itself: to a person, to a program, to systemd."""

from __future__ import annotations

import asyncio
import json
import re
import socket

import pytest

from tests.system.conftest import LINK, NAME, Setup, spawn, start, status_when, tunneld
from tunneld.control import Status
from tunneld.lab.child import readable

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

HUMAN = """\
tunnel: t
  protocol: plain over tcp (in clear)
  interface: t0 (tun, mtu N)
  state: up for N s: connected, tcp N.N.N.N:N → N.N.N.N:N
  uptime: N s
  transfer: N B received, N B sent
  packets: N received, N sent

peer: left
  endpoint: N.N.N.N:N
  link: tcp N.N.N.N:N → N.N.N.N:N
  connected: N s ago
  last received: N s ago
"""


def masked(text: str) -> str:
    """Numbers are N, and so are the units of sizes, which depend on them."""
    text = re.sub(r"(?<![a-z])[0-9]+(?:\.[0-9]{2})?", "N", text)
    return re.sub(r"N [KM]iB", "N B", text)


async def test_a_person_reads_who_talks_to_whom_and_how_much(hosts):
    await start(hosts, Setup("tcp"))
    shown = await tunneld(hosts.right, "show", NAME)
    assert shown.code == 0
    lines = [line for line in shown.output.splitlines() if not line.startswith("  dropped: ")]
    assert masked("\n".join(lines) + "\n") == HUMAN


async def test_a_program_reads_every_field_of_the_schema(hosts):
    _, right = await start(hosts, Setup("tcp"))
    shown = await tunneld(hosts.right, "show", NAME, "--json")
    assert shown.code == 0
    status = json.loads(shown.output)
    assert status.keys() == Status.__annotations__.keys()
    assert (status["name"], status["interface"], status["mode"], status["mtu"]) == (NAME, LINK, "tun", 1400)
    assert (status["state"], status["peers"][0]["name"]) == ("up", "left")
    assert status["counters"]["device_read_packets"] > 0
    everything = await tunneld(hosts.right, "show", "--json")
    assert [one["name"] for one in json.loads(everything.output)] == [NAME]
    assert await right.stop() == 0
    assert (await tunneld(hosts.right, "show", NAME)).code == 1


async def test_the_counters_of_both_ends_agree(hosts):
    left, right = await start(hosts, Setup("tcp"))
    sent = (await left.status())["counters"]
    seen = await status_when(
        right, lambda status: status["counters"]["link_received_bytes"] >= sent["link_sent_bytes"]
    )
    assert seen["counters"]["link_received_messages"] >= sent["link_sent_messages"]
    assert seen["counters"]["device_written_packets"] > 0


async def test_systemd_hears_the_start_the_state_and_the_stop(hosts):
    address = hosts.left.run_dir / "systemd"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(address))
        child = spawn(hosts.left, Setup("tcp").left(hosts), env={"NOTIFY_SOCKET": str(address)})
        said = await until(systemd, "READY=1")
        assert "READY=1" not in said[:-1]
        said = await until(systemd, "STATUS=listening: waiting on tcp [::]:55555")
        assert "STOPPING=1" not in said
        assert (await hosts.left.run(["ip", "link", "del", LINK])).code == 0
        await until(systemd, f"STATUS=down: {LINK}: the device was deleted")
        await until(systemd, "STATUS=listening: waiting on tcp [::]:55555")
        assert await child.stop() == 0
        await until(systemd, "STOPPING=1")


async def until(sock, wanted):
    """The assignments that arrive, `wanted` being the last of them."""
    said = []
    async with asyncio.timeout(10.0):
        while True:
            await readable(sock.fileno())
            for line in sock.recv(4096).decode().split("\n"):
                said.append(line)
                if line == wanted:
                    return said
