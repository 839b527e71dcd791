from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import closing

import pytest

from tests.edge.pairs import readable
from tunneld.config import Endpoint
from tunneld.edge import errqueue, udp


def checksum(data: bytes) -> int:
    return 0xFFFF - (int.from_bytes(data) % 0xFFFF)


def udp_header(source: int, destination: int) -> bytes:
    return struct.pack(">HHHH", source, destination, 8, 0)


def forged_v4(kind: int, code: int, source: int, destination: int) -> bytes:
    """The ICMP message that somebody sends about a datagram of 127.0.0.1 to itself."""
    quoted = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, *(socket.inet_aton("127.0.0.1"),) * 2)
    rest = struct.pack(">I", 1400 if (kind, code) == (3, 4) else 0) + quoted + udp_header(source, destination)
    return struct.pack(">BBH", kind, code, checksum(bytes((kind, code, 0, 0)) + rest)) + rest


def forged_v6(kind: int, code: int, source: int, destination: int) -> bytes:
    quoted = struct.pack(">IHBB16s16s", 6 << 28, 8, 17, 64, *(socket.inet_pton(socket.AF_INET6, "::1"),) * 2)
    # The kernel fills in the checksum.
    return struct.pack(">BBHI", kind, code, 0, 1400 if kind == 2 else 0) + quoted + udp_header(source, destination)


def forge(host: str, kind: int, code: int, source: int, destination: int) -> None:
    family, protocol, make = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, forged_v6)
        if ":" in host
        else (socket.AF_INET, socket.IPPROTO_ICMP, forged_v4)
    )
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.sendto(make(kind, code, source, destination), (host, 0))


def pending(sock: socket.socket) -> int:
    """The errno that the next call gets, whatever it is; 0 for none. Asking takes it away."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1", "::"])
def sock(request):
    with closing(udp.open_bound(Endpoint(request.param, 0))) as sock:
        yield sock


def hosts_of(sock: socket.socket) -> list[str]:
    host = sock.getsockname()[0]
    return {"0.0.0.0": ["127.0.0.1"], "::": ["127.0.0.1", "::1"]}.get(host, [host])


def test_an_unreachable_port_is_told_by_its_address(sock):
    for host in hosts_of(sock):
        mapped = f"::ffff:{host}" if sock.family == socket.AF_INET6 and ":" not in host else host
        for port in (1, 2):
            pending(sock)
            sock.sendto(b"x", (mapped, port))
        expected = [(host, port) if ":" not in host else (host, port, 0, 0) for port in (1, 2)]
        assert errqueue.read(sock) == [(address, errno.ECONNREFUSED) for address in expected]
        assert pending(sock) == 0
        assert errqueue.read(sock) == []


def test_what_the_kernel_itself_refuses_is_taken_from_the_queue_and_not_told():
    with closing(udp.open_bound(Endpoint("127.0.0.1", 0))) as sock:
        watched = udp.watch(sock)
        with closing(watched):
            with pytest.raises(OSError, match="Message too long"):
                sock.sendto(bytes(65_508), ("127.0.0.1", 1))
            assert readable(watched.fileno())
            assert errqueue.read(sock) == []
            assert not readable(watched.fileno(), 0)


@pytest.mark.usefixtures("namespaces")
def test_nothing_that_icmp_can_say_breaks_a_socket(sock):
    """Anybody can send these: the kernel looks only at the addresses and ports that the message quotes."""
    port = sock.getsockname()[1]
    for host in hosts_of(sock):
        kinds = (1, 2, 3, 4) if ":" in host else (3, 11, 12)
        said = set()
        for kind in kinds:
            for code in range(16):
                forge(host, kind, code, port, 7)
                number = pending(sock)
                assert number == 0 or number in errqueue.REFUSED, (kind, code, os.strerror(number))
                said |= {number}
        assert {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPROTO} <= said
        assert {address[:2] for address, _ in errqueue.read(sock)} == {(host, 7)}


def test_a_flood_is_read_in_parts(sock):
    host = hosts_of(sock)[0]
    mapped = f"::ffff:{host}" if sock.family == socket.AF_INET6 and ":" not in host else host
    for port in range(1, errqueue.MOST_READ + 11):
        pending(sock)
        sock.sendto(b"x", (mapped, port))
    assert len(errqueue.read(sock)) == errqueue.MOST_READ
    assert pending(sock) == errno.ECONNREFUSED
    assert len(errqueue.read(sock)) == 10
