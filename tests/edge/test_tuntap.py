from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tunneld.edge import ifinfo, netns, tuntap
from tunneld.proto.errors import DeviceError

IFF_VNET_HDR = 0x4000
TUN_F_CSUM_AND_TSO = 0x07
SIOCETHTOOL = 0x8946
ETHTOOL_GTSO = 0x1E
STRANGER = 65_534

pytestmark = pytest.mark.usefixtures("namespaces")


@pytest.fixture
def made(ip):
    """made(name, words of `ip tuntap add`…): a persistent device for one test."""
    names = []

    def make(name: str, *words: str) -> None:
        ip("tuntap", "add", name, *words)
        names.append(name)

    yield make
    for name in names:
        if ifinfo.lookup(name):
            ip("link", "del", name)


def refusal(name: str, mode: str) -> str:
    with pytest.raises(DeviceError) as caught:
        os.close(tuntap.attach(name, mode))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names


@pytest.mark.parametrize("name", ["tun0", "a", "x" * 15, "büro-1", "..."])
def test_a_good_name_is_one_that_the_kernel_takes(name):
    assert tuntap.name_fault(name) is None
    os.close(tuntap.attach(name, "tun"))


@pytest.mark.parametrize(
    "name", ["", "x" * 16, "ü" * 8, ".", "..", "a/b", "a b", "a:b", "tun%d", "a\tb", "a\x00b", "a\udcff"]
)
def test_a_bad_name_is_refused_before_the_kernel_sees_it(name):
    assert tuntap.name_fault(name)
    assert refusal(name, "tun") == f"{name!r}: {tuntap.name_fault(name)}"


# --- what stands in the way


@pytest.mark.parametrize(("made_as", "opened_as"), [("tap", "tun"), ("tun", "tap")])
def test_the_other_mode_is_named(made, made_as, opened_as):
    made("mode0", "mode", made_as)

    assert refusal("mode0", opened_as) == (
        f'mode0: is a {made_as.upper()} device, not a {opened_as.upper()}; use mode "{made_as}" or another name'
    )


def test_the_mode_is_that_of_the_device_in_the_namespace_of_the_caller(made):
    made("mode0", "mode", "tun")
    namespace = netns.new()
    try:
        netns.call_in(namespace, lambda: subprocess.run(["ip", "tuntap", "add", "mode0", "mode", "tap"], check=True))

        assert "is a TAP device" in netns.call_in(namespace, lambda: refusal("mode0", "tun"))
    finally:
        os.close(namespace)


def test_an_interface_that_is_no_tuntap_is_left_alone(ip):
    ip("link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
    try:
        assert refusal("veth-a", "tap") == "veth-a: exists and is no TUN or TAP device (veth); choose another name"
        assert refusal("lo", "tun") == "lo: exists and is no TUN or TAP device (hardware); choose another name"
    finally:
        ip("link", "del", "veth-a")


def test_a_busy_device_names_its_holder():
    fd = tuntap.attach("busy0", "tun")
    try:
        comm = Path("/proc/self/comm").read_text().strip()

        assert refusal("busy0", "tun") == (
            f"busy0: is busy (pid {os.getpid()}, {comm}); stop that process or choose another name"
        )
    finally:
        os.close(fd)


def test_a_multi_queue_device_is_not_shared(made):
    made("queues0", "mode", "tun", "multi_queue")

    assert "multi-queue" in refusal("queues0", "tun")


def test_a_missing_driver_is_told_with_modprobe(child):
    said = child('own_dev_net()\noutcome(lambda: tuntap.attach("new0", "tun"))')

    assert said.startswith("cannot open /dev/net/tun: No such file or directory; load the driver: modprobe tun")


def test_a_node_that_may_not_be_opened_is_told_with_chmod(child):
    said = child("""
own_dev_net()
os.close(os.open("/dev/net/tun", os.O_CREAT, 0))
drop_capabilities()
outcome(lambda: tuntap.attach("new0", "tun"))
""")

    assert said == "cannot open /dev/net/tun: Permission denied; its mode forbids it: chmod 0666 /dev/net/tun"


def test_making_a_device_without_the_capability_names_the_two_ways(child):
    said = child('open_to_all()\ndrop_capabilities()\noutcome(lambda: tuntap.attach("new0", "tap"))')

    assert said == (
        "new0: making a device needs CAP_NET_ADMIN; run as root or by systemd, or once as root: "
        "tunneld device add new0 --mode tap --user root"
    )


def test_a_device_of_somebody_else_names_the_owner(made, child, userns):
    if userns:
        pytest.skip("a user namespace has no second user; run as root to see this one")
    made("owned0", "mode", "tun", "user", "12345", "group", "54321")

    said = child(f'open_to_all()\nbecome({STRANGER})\noutcome(lambda: tuntap.attach("owned0", "tun"))')

    assert said.startswith("owned0: belongs to user 12345 (uid 12345) and group 54321 (gid 54321), and we are user ")
    assert said.endswith(f"(uid {STRANGER}) without CAP_NET_ADMIN; run as its owner or as root")


# --- what is allowed


def test_an_owner_without_any_capability_attaches(made, child, userns):
    owner = 0 if userns else STRANGER
    made("owned0", "mode", "tun", "user", str(owner))

    said = child(f"""
open_to_all()
drop_capabilities() if {owner} == 0 else become({owner})
outcome(lambda: os.close(tuntap.attach("owned0", "tun")))
outcome(lambda: os.close(tuntap.attach("new0", "tun")))
""")

    first, second = said.splitlines()
    assert first == "ok"
    assert "needs CAP_NET_ADMIN" in second


def test_what_is_opened_is_non_blocking_and_not_inherited():
    fd = tuntap.attach("flags0", "tun")
    try:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(fd)


def test_a_transient_device_goes_with_its_descriptor():
    fd = tuntap.attach("brief0", "tap")
    assert not tuntap.is_persistent(fd)
    assert ifinfo.lookup("brief0") == ifinfo.Interface("tun", mode="tap")

    os.close(fd)

    assert ifinfo.lookup("brief0") is None


def test_the_offloads_of_the_last_holder_are_switched_off(made):
    made("super0", "mode", "tap")
    fd = os.open(tuntap.TUN_PATH, os.O_RDWR)
    flags = tuntap.IFF_TAP | tuntap.IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, tuntap.TUNSETIFF, tuntap.IFREQ.pack(b"super0", flags))
    fcntl.ioctl(fd, tuntap.TUNSETOFFLOAD, TUN_F_CSUM_AND_TSO)
    os.close(fd)
    assert tso("super0")

    os.close(tuntap.attach("super0", "tap"))

    assert not tso("super0")


# --- persistent devices


@pytest.mark.parametrize("mode", ["tun", "tap"])
def test_add_makes_and_delete_removes(mode):
    tuntap.add("kept0", mode, owner=0, group=0)
    made = ifinfo.Interface("tun", mode=mode, owner=0, group=0, persistent=True)
    assert ifinfo.lookup("kept0") == made

    assert tuntap.delete("kept0") == made
    assert ifinfo.lookup("kept0") is None


def test_add_leaves_an_existing_device_as_it_is(made):
    made("kept0", "mode", "tun", "user", "0")

    with pytest.raises(
        DeviceError, match="kept0: exists already, as a TUN device; remove it first: tunneld device del"
    ):
        tuntap.add("kept0", "tap")

    assert ifinfo.lookup("kept0") == ifinfo.Interface("tun", mode="tun", owner=0, persistent=True)


def test_an_owner_that_the_user_namespace_does_not_know_leaves_no_device(child):
    uid, gid = os.geteuid(), os.getegid()

    said = child(f"""
netns.unshare(netns.CLONE_NEWUSER | netns.CLONE_NEWNET)
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write("0 {uid} 1")
open("/proc/self/gid_map", "w").write("0 {gid} 1")
outcome(lambda: tuntap.add("kept0", "tun", owner=4711))
print(ifinfo.lookup("kept0"))
""")

    assert said == "kept0: user 4711 does not exist in this user namespace; map it, or leave it out\nNone"


def test_delete_of_nothing_says_so():
    with pytest.raises(DeviceError, match="kept0: there is no such device"):
        tuntap.delete("kept0")


def test_delete_spares_what_is_no_tuntap():
    with pytest.raises(DeviceError, match=r"lo: exists and is no TUN or TAP device \(hardware\); tunneld does not"):
        tuntap.delete("lo")


def test_delete_spares_what_goes_with_its_process():
    fd = tuntap.attach("brief0", "tun")
    try:
        with pytest.raises(DeviceError, match=rf"brief0: is not persistent: .* \(pid {os.getpid()}, "):
            tuntap.delete("brief0")
    finally:
        os.close(fd)


def test_delete_spares_a_device_in_use(made):
    made("kept0", "mode", "tun")
    fd = tuntap.attach("kept0", "tun")
    try:
        with pytest.raises(DeviceError, match=rf"kept0: is busy \(pid {os.getpid()}, "):
            tuntap.delete("kept0")
        assert tuntap.is_persistent(fd)
    finally:
        os.close(fd)


def test_delete_takes_a_multi_queue_device_too(made):
    made("queues0", "mode", "tap", "multi_queue")

    tuntap.delete("queues0")

    assert ifinfo.lookup("queues0") is None


def tso(name: str) -> bool:
    value = array.array("I", [ETHTOOL_GTSO, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))
    return bool(value[1])
