from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import closing, contextmanager
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

import pytest

from tests.edge.pairs import open_descriptors, readable, until
from tunneld.config import Endpoint
from tunneld.edge import udp, udpport
from tunneld.edge.udpport import UdpPath, UdpPort
from tunneld.lab import network, topology
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import AddressDel
from tunneld.proto.errors import LinkDown, Reason

# Which loop it is makes no difference where the port is called by hand.
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])
FAMILIES = pytest.mark.parametrize(
    ("listen", "family"), [("0.0.0.0", 4), ("::", 4), ("::", 6)], ids=["v4", "mapped", "v6"]
)


@contextmanager
def port_on(host="127.0.0.1", number=0):
    with closing(UdpPort(udp.open_bound(Endpoint(host, number)))) as port:
        yield port


@contextmanager
def bare_socket(host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(5)
        yield sock


def receive(port):
    """The batches of the next turn, datagrams copied."""
    assert readable(port.fileno())
    return [(path, [bytes(datagram) for datagram in datagrams]) for path, datagrams in port.recv_batches(0.0)]


def heard(port, sock, text=b"hello", host=None):
    """The path by which `sock` reaches the port."""
    sock.sendto(text, (host or port.local[0], port.local[1]))
    [(path, [datagram])] = receive(port)
    assert datagram == text
    return path


def nobody():
    """An address where nobody is any more."""
    with bare_socket() as sock:
        return sock.getsockname()


# What comes.


def test_datagrams_of_a_turn_come_by_path_and_in_their_order():
    with port_on() as port, bare_socket() as one, bare_socket() as other:
        for sock, text in ((one, b"1"), (one, b"2"), (other, b"3"), (one, b"4")):
            sock.sendto(text, port.local)
        batches = receive(port)
        assert [datagrams for _, datagrams in batches] == [[b"1", b"2", b"4"], [b"3"]]
        assert [path.remote for path, _ in batches] == [one.getsockname(), other.getsockname()]
        assert heard(port, one) is batches[0][0]
        assert port.recv_batches(0.0) == []


def test_a_turn_ends_after_32_datagrams_or_64_kib():
    with port_on() as port, bare_socket() as sock:
        for _ in range(udp.BATCH + 1):
            sock.sendto(b"x", port.local)
        assert [len(datagrams) for _, datagrams in receive(port) + receive(port)] == [udp.BATCH, 1]
        for _ in range(3):
            sock.sendto(bytes(40_000), port.local)
        assert [len(datagrams) for _, datagrams in receive(port) + receive(port)] == [2, 1]


def test_empty_and_longest_datagrams_pass_both_ways():
    with port_on() as port, bare_socket() as sock:
        for text in (b"", bytes(65_507)):
            path = heard(port, sock, text)
            path.send_batch([memoryview(text)])
            assert sock.recv(1 << 17) == text


@pytest.mark.parametrize(
    ("listen", "host", "ip"),
    [
        ("127.0.0.1", "127.0.0.1", bytes((127, 0, 0, 1))),
        ("0.0.0.0", "127.0.0.1", bytes((127, 0, 0, 1))),
        ("::", "127.0.0.1", bytes((127, 0, 0, 1))),
        ("::", "::1", bytes(15) + b"\x01"),
        ("::1", "::1", bytes(15) + b"\x01"),
    ],
)
def test_a_path_names_both_ends(listen, host, ip):
    with port_on(listen) as port, bare_socket(host) as sock:
        path = heard(port, sock, host=host)
        number = sock.getsockname()[1]
        assert path.remote == sock.getsockname()
        assert path.local == ((host, port.local[1]) if ":" not in host else (host, port.local[1], 0, 0))
        assert path.ip == ip
        assert path.source == ip + number.to_bytes(2, "big")
        text = f"[{host}]" if ":" in host else host
        assert str(path) == f"udp {text}:{port.local[1]} → {text}:{number}"
        assert repr(path) == f"<{path}>"


def test_a_path_to_an_endpoint_equals_the_one_that_answers_come_by_only_where_our_address_is_known():
    with port_on("127.0.0.1") as port, bare_socket() as sock:
        path = port.path(sock.getsockname())
        assert path == heard(port, sock)
        assert {path: 1}[heard(port, sock)] == 1
        assert path.local == port.local
    with port_on("::") as port, bare_socket() as sock:
        path = port.path(sock.getsockname())
        came = heard(port, sock, host="127.0.0.1")
        assert path != came
        assert path == UdpPath(port, came.target, ())
        assert path.local is None
        assert path != str(path)
        assert str(path) == f"udp [::]:{port.local[1]} → 127.0.0.1:{sock.getsockname()[1]}"


def test_a_socket_without_the_family_says_so():
    with port_on("0.0.0.0") as port, pytest.raises(LinkDown, match=r"is IPv6, but we listen on IPv4 only"):
        port.path(("2001:db8::1", 1, 0, 0))
    with port_on("::1") as port, pytest.raises(LinkDown, match=r"^192\.0\.2\.1:1 is IPv4, but .* IPv6 .*listen ="):
        port.path(("192.0.2.1", 1))


def test_strangers_fill_a_memory_that_is_bounded(monkeypatch):
    monkeypatch.setattr(udpport, "MOST_PATHS", 8)
    with port_on() as port, bare_socket() as peer:
        path = heard(port, peer)
        for _ in range(20):
            with bare_socket() as stranger:
                heard(port, stranger)
                assert len(port._paths) <= 8
        assert heard(port, peer) == path
        path.send_batch([b"still"])
        assert peer.recv(100) == b"still"


# What others say of one of many.


def test_an_unreachable_peer_costs_no_other_a_datagram():
    gone = nobody()
    with port_on() as port, bare_socket() as peer:
        refusing, reachable = port.path(gone), port.path(peer.getsockname())
        came = 0
        for number in range(1000):
            assert refusing.send_batch([b"to nobody"]) == 1
            reachable.send_batch([number.to_bytes(2, "big")])
            came += int.from_bytes(peer.recv(100)) == number
        assert came == 1000
        assert not port.drops
        assert port.poll_trouble() == (gone, "Connection refused")
        assert port.poll_trouble() is None


def test_nor_does_it_when_there_is_no_room_to_say_who_it_was():
    """Errors share the receive buffer, but the next call fails all the same."""
    sock = udp.open_bound(Endpoint("127.0.0.1", 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with closing(UdpPort(sock)) as port, bare_socket() as peer:
        for _ in range(10):
            peer.sendto(bytes(1000), port.local)
        port.path(nobody()).send_batch([b"to nobody"])
        port.path(peer.getsockname()).send_batch([b"to somebody"])
        assert peer.recv(100) == b"to somebody"
        assert not port.drops
        assert port.poll_trouble() is None


def test_nor_does_it_when_it_is_told_while_somebody_is_listened_to():
    gone = nobody()
    with port_on("::") as port, bare_socket() as peer:
        port.path(gone).send_batch([b"to nobody"])
        for text in (b"1", b"2"):
            peer.sendto(text, ("127.0.0.1", port.local[1]))
        assert [datagrams for _, datagrams in receive(port)] == [[b"1", b"2"]]
        assert port.poll_trouble() == (gone, "Connection refused")
        assert not readable(port.fileno(), 0), "the loop would spin"


async def test_the_loop_still_watches_after_a_refusal():
    """uvloop takes a descriptor for broken at EPOLLERR and never looks at it again."""
    gone = nobody()
    loop = asyncio.get_running_loop()
    with port_on() as port, bare_socket() as peer:
        turns = []
        loop.add_reader(port.fileno(), lambda: turns.append(port.recv_batches(0.0)))
        try:
            for _ in range(3):
                before = len(turns)
                port.path(gone).send_batch([b"anybody?"])
                await until(lambda before=before: len(turns) > before)
                assert port.poll_trouble() == (gone, "Connection refused")
            peer.sendto(b"now", port.local)
            await until(lambda: turns[-1])
        finally:
            loop.remove_reader(port.fileno())


def test_troubles_are_told_once_for_each_address_the_oldest_first_and_only_so_many(monkeypatch):
    monkeypatch.setattr(udpport, "MOST_TROUBLES", 3)
    with port_on() as port:
        for number in (1, 2, 1, 3, 4):
            port.path(("127.0.0.1", number)).send_batch([b"x"])
            assert readable(port.fileno())
            port.recv_batches(0.0)
        assert [port.poll_trouble() for _ in range(3)] == [
            (("127.0.0.1", number), "Connection refused") for number in (1, 2, 3)
        ]
        assert port.poll_trouble() is None


def test_what_the_kernel_refuses_at_once_is_trouble_of_that_destination():
    with port_on("0.0.0.0") as port:
        path = port.path(("203.0.113.1", 1))
        assert path.send_batch([b"x", b"y"]) == 2
        assert port.drops == {Reason.SEND_REFUSED: 2}
        assert port.poll_trouble() == (path.remote, "Network is unreachable")


def test_a_datagram_that_is_too_long_is_counted_and_no_trouble():
    with port_on() as port, bare_socket() as peer:
        path = port.path(peer.getsockname())
        assert path.send_batch([bytes(65_508), b"fits"]) == 2
        assert peer.recv(100) == b"fits"
        assert port.drops == {Reason.SEND_REFUSED: 1}
        assert port.poll_trouble() is None


@ONE_LOOP
async def test_a_full_socket_is_counted(namespaces):
    """A neighbour that never answers ARP keeps what is sent to it, up to a bound."""
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        await network.set_state(hosts.right, "eth0", "down")
        sock = hosts.left.call(lambda: udp.open_bound(Endpoint("0.0.0.0", 0)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with closing(UdpPort(sock)) as port:
            assert port.path((hosts.right_v4, 1)).send_batch([bytes(1000)] * 50) == 50
            assert port.drops[Reason.QUEUE_FULL] > 0
            assert set(port.drops) <= {Reason.QUEUE_FULL, Reason.SEND_REFUSED}


def test_a_socket_that_broke_is_the_worlds_fault():
    with bare_socket() as peer:
        sock = udp.open_bound(Endpoint("127.0.0.1", 0))
        sock.connect(peer.getsockname())
        sock.shutdown(socket.SHUT_WR)
        with closing(UdpPort(sock)) as port, pytest.raises(LinkDown, match=r"^Broken pipe$"):
            port.path(peer.getsockname()).send_batch([b"x"])


def test_a_socket_is_closed_when_no_descriptor_is_left_to_watch_it():
    before = open_descriptors()
    sock = udp.open_bound(Endpoint("127.0.0.1", 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        with pytest.raises(OSError, match="Too many open files"):
            UdpPort(sock)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before


def test_a_closed_port_leaves_nothing_open():
    before = open_descriptors()
    with port_on() as port:
        port.flush()
        assert not port.blocked
        assert not port.path(port.local).blocked
        assert open_descriptors() == before + 2
    port.close()
    assert open_descriptors() == before


# Which of our addresses speaks: hosts of their own, modelled on the kernel's tests of WireGuard.
#
#   left eth0 ───────── eth0 right
#   several addresses   192.0.2.2, 2001:db8::2

LEFT = {4: ("192.0.2.1", "192.0.2.7", "192.0.2.9"), 6: ("2001:db8::1", "2001:db8::7", "2001:db8::9")}
PREFIX = {4: 24, 6: 64}


@contextmanager
def across(hosts, listen):
    """A port on the left, and bare sockets for both families on the right."""
    with closing(hosts.left.call(lambda: UdpPort(udp.open_bound(Endpoint(listen, 0))))) as port:
        four, six = (
            hosts.right.call(lambda host=host: udp.open_bound(Endpoint(host, 0))) for host in ("0.0.0.0", "::")
        )
        with closing(four), closing(six):
            for each in (four, six):
                each.settimeout(5)
            yield port, {4: four, 6: six}


def notice(port):
    """Let the port see that something changed around it."""
    assert readable(port.fileno())
    while readable(port.fileno(), 0):
        assert port.recv_batches(0.0) == []


async def take(host, link, address, length):
    async with Kernel.open(host.namespace) as kernel:
        await kernel.execute(AddressDel(link, ip_interface(f"{address}/{length}")))


def answered_from(path, sock):
    """Where an answer on `path` comes from, as its receiver sees it."""
    assert path.send_batch([b"one", b"two"]) == 2
    senders = {sock.recvfrom(100)[1][0] for _ in range(2)}
    assert len(senders) == 1
    return senders.pop()


@FAMILIES
@ONE_LOOP
async def test_an_answer_comes_from_the_address_that_was_spoken_to(namespaces, listen, family):
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        await network.give(hosts.left, "eth0", *(f"{address}/{PREFIX[family]}" for address in LEFT[family][1:]))
        with across(hosts, listen) as (port, peers):
            for address in LEFT[family]:
                path = heard(port, peers[family], host=address)
                assert path.local[:2] == (address, port.local[1])
                assert answered_from(path, peers[family]) == address


@FAMILIES
@ONE_LOOP
async def test_an_answer_comes_from_there_even_if_the_address_belongs_to_another_interface(
    namespaces, listen, family
):
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        address, gateway = {4: ("198.51.100.1", hosts.left_v4), 6: ("2001:db8:5::1", hosts.left_v6)}[family]
        await network.give(hosts.left, "lo", f"{address}/{128 if family == 6 else 32}")
        await network.route(hosts.right, f"{address}/{128 if family == 6 else 32}", gateway)
        with across(hosts, listen) as (port, peers):
            path = heard(port, peers[family], host=address)
            assert answered_from(path, peers[family]) == address


@FAMILIES
@pytest.mark.parametrize("noticed", [False, True], ids=["at once", "noticed"])
@ONE_LOOP
async def test_an_address_that_is_gone_is_left_for_another_until_it_is_back(namespaces, listen, family, noticed):
    first, second, _ = LEFT[family]
    length = PREFIX[family]
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        hosts.left.call(promote_secondaries)
        with across(hosts, listen) as (port, peers):
            path = heard(port, peers[family], host=first)
            await network.give(hosts.left, "eth0", f"{second}/{length}")
            notice(port)
            assert answered_from(path, peers[family]) == first
            assert path.sticky
            await take(hosts.left, "eth0", first, length)
            if noticed:
                notice(port)
            assert answered_from(path, peers[family]) == second
            assert not path.sticky
            await network.give(hosts.left, "eth0", f"{first}/{length}")
            notice(port)
            assert answered_from(path, peers[family]) == first
            assert path.sticky
            assert not port.drops
            assert port.poll_trouble() is None


def promote_secondaries():
    """Or the second address of a subnet goes with the first."""
    Path("/proc/sys/net/ipv4/conf/eth0/promote_secondaries").write_text("1")


@FAMILIES
@ONE_LOOP
async def test_a_better_route_by_another_interface_is_taken_with_its_address(namespaces, listen, family):
    """The old address is still ours, and is taken again when the route is gone."""
    ours, theirs = {4: ("198.51.100.1/32", "192.0.2.2/32"), 6: ("2001:db8:5::1/128", "2001:db8::2/128")}[family]
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        await network.cable(hosts.left, "eth1", hosts.right, "eth1")
        await network.give(hosts.left, "eth1", ours)
        await network.give(hosts.right, "eth1", theirs)
        hosts.right.call(accept_from_anywhere)
        with across(hosts, listen) as (port, peers):
            path = heard(port, peers[family], host=LEFT[family][0])
            assert answered_from(path, peers[family]) == LEFT[family][0]
            async with Kernel.open(hosts.left.namespace) as kernel:
                [eth1] = await kernel.ipr.link_lookup(ifname="eth1")
                better = {"dst": theirs, "oif": eth1, "prefsrc": ours.partition("/")[0]}
                await kernel.ipr.route("add", **better)
                notice(port)
                assert answered_from(path, peers[family]) == better["prefsrc"]
                await kernel.ipr.route("del", **better)
            notice(port)
            assert answered_from(path, peers[family]) == LEFT[family][0]


def accept_from_anywhere():
    for interface in ("all", "eth1"):
        Path(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter").write_text("0")


@FAMILIES
@ONE_LOOP
async def test_while_there_is_no_way_at_all_datagrams_are_refused_and_the_address_is_kept(namespaces, listen, family):
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        length = 32 if family == 4 else 128
        address, far = {4: ("198.51.100.1", "203.0.113.1"), 6: ("2001:db8:5::1", "2001:db8:6::1")}[family]
        await network.give(hosts.left, "lo", f"{address}/{length}")
        await network.give(hosts.right, "lo", f"{far}/{length}")
        right = hosts.right_v4 if family == 4 else hosts.right_v6
        await network.route(hosts.left, f"{far}/{length}", right)
        await network.route(hosts.right, f"{address}/{length}", LEFT[family][0])
        with across(hosts, listen) as (port, _):
            sender = hosts.right.call(lambda: udp.open_bound(Endpoint(far, 0)))
            with closing(sender):
                path = heard(port, sender, host=address)
                sender.settimeout(5)
                async with Kernel.open(hosts.left.namespace) as kernel:
                    await kernel.ipr.route("del", dst=f"{far}/{length}", gateway=right)
                assert path.send_batch([b"x", b"y"]) == 2
                assert port.drops == {Reason.SEND_REFUSED: 2}
                assert port.poll_trouble() == (path.remote, "Network is unreachable")
                assert path.sticky
                notice(port)
                path.send_batch([b"z"])
                await network.route(hosts.left, f"{far}/{length}", right)
                notice(port)
                assert answered_from(path, sender) == address


@ONE_LOOP
async def test_a_link_local_address_answers_by_the_interface_that_was_spoken_to(namespaces):
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        await network.cable(hosts.left, "eth1", hosts.right, "eth1")
        for link in ("eth0", "eth1"):
            await network.give(hosts.left, link, "fe80::1/64")
            await network.give(hosts.right, link, "fe80::2/64")
        with across(hosts, "::") as (port, peers):
            for link, elsewhere in (("eth0", "2001:db8:7::1/128"), ("eth1", "2001:db8:7::2/128")):
                ours, theirs = (host.call(partial(socket.if_nametoindex, link)) for host in (hosts.left, hosts.right))
                number = port.local[1]
                peers[6].sendto(b"hello", ("fe80::1", number, 0, theirs))
                [(path, _)] = receive(port)
                assert path.local == ("fe80::1", number, 0, ours)
                assert path.remote == ("fe80::2", peers[6].getsockname()[1], 0, ours)
                path.send_batch([b"back"])
                assert peers[6].recvfrom(100)[1] == ("fe80::1", number, 0, theirs)
                await network.give(hosts.left, "eth0", elsewhere)
                notice(port)
                path.send_batch([b"again"])
                assert path.sticky
                assert peers[6].recvfrom(100)[1] == ("fe80::1", number, 0, theirs)


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
@ONE_LOOP
async def test_who_calls_everybody_is_answered(namespaces, listen):
    """The address that was spoken to is nobody's own."""
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        with across(hosts, listen) as (port, peers):
            peers[4].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            path = heard(port, peers[4], host="192.0.2.255")
            assert answered_from(path, peers[4]) == hosts.left_v4
            assert not port.drops
