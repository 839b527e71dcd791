from __future__ import annotations

import os
import subprocess

import pytest

from tunneld.edge import ifinfo, netns
from tunneld.edge.ifinfo import Interface


@pytest.fixture(autouse=True)
def _interfaces(ip):
    ip("link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
    ip("tuntap", "add", "plain0", "mode", "tun")
    ip("tuntap", "add", "owned0", "mode", "tap", "user", "0", "group", "0")
    ip("tuntap", "add", "queues0", "mode", "tap", "multi_queue")
    yield
    for name in ("veth-a", "plain0", "owned0", "queues0"):
        ip("link", "del", name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing0", None),
        ("lo", Interface("")),
        ("veth-a", Interface("veth")),
        ("plain0", Interface("tun", mode="tun", persistent=True)),
        ("owned0", Interface("tun", mode="tap", owner=0, group=0, persistent=True)),
        ("queues0", Interface("tun", mode="tap", persistent=True, multi_queue=True)),
        ("x" * 15, None),
    ],
)
def test_an_interface_is_what_iproute2_made_it(name, expected):
    assert ifinfo.lookup(name) == expected


def test_the_namespace_is_the_callers_and_not_that_of_sys():
    namespace = netns.new()
    try:
        netns.call_in(namespace, lambda: subprocess.run(["ip", "tuntap", "add", "plain0", "mode", "tap"], check=True))

        assert netns.call_in(namespace, lambda: ifinfo.lookup("plain0")).mode == "tap"
        assert ifinfo.lookup("plain0").mode == "tun"
        assert netns.call_in(namespace, lambda: ifinfo.lookup("veth-a")) is None
    finally:
        os.close(namespace)


def test_a_name_that_no_interface_can_have_is_an_error():
    with pytest.raises(OSError, match=r"Numerical result|Invalid argument"):
        ifinfo.lookup("x" * 200)
