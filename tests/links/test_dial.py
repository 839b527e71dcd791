from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from ipaddress import ip_interface

import pytest

from tests.edge.pairs import open_descriptors
from tests.links.peers import names, nobody
from tunneld.config import Endpoint
from tunneld.edge import tcp
from tunneld.links.dial import Dialler
from tunneld.netcfg.kernel import Kernel
from tunneld.netcfg.operation import IFA_F_NODAD, AddressAdd, AddressDel
from tunneld.proto.errors import LinkDown


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def at(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname()[:2])


async def failure(dialler: Dialler) -> str:
    with pytest.raises(LinkDown) as caught:
        await dialler.connect()
    return str(caught.value)


async def test_the_first_endpoint_that_answers_is_taken(server):
    refusing = nobody()
    for endpoints in (
        [at(server), refusing],
        [refusing, at(server)],
        [Endpoint("no.such.name.invalid", 1), at(server)],
    ):
        with closing(await Dialler(endpoints, None).connect()) as link:
            assert link.remote == server.getsockname()
            assert link.opened_by_us


async def test_what_the_last_endpoint_said_is_told(tmp_path, namespaces):
    refusing = nobody()
    with names(tmp_path / "hosts"):
        unknown = Endpoint("peer.example", 1)
        assert await failure(Dialler([unknown, refusing], None)) == f"{refusing}: Connection refused"
        assert (await failure(Dialler([refusing, unknown], None))).startswith("cannot resolve peer.example: ")


async def test_every_address_of_a_name_is_tried(tmp_path, namespaces, server):
    with names(tmp_path / "hosts") as hosts:
        hosts.write_text("127.0.0.8 peer.example\n127.0.0.1 peer.example\n")
        with closing(await Dialler([Endpoint("peer.example", at(server).port)], None).connect()) as link:
            assert link.remote == server.getsockname()


async def test_names_are_resolved_anew_for_every_connection(tmp_path, namespaces, server):
    with names(tmp_path / "hosts") as hosts:
        dialler = Dialler([Endpoint("peer.example", at(server).port)], None)
        assert "cannot resolve" in await failure(dialler)
        hosts.write_text("127.0.0.1 peer.example\n")
        with closing(await dialler.connect()):
            assert dialler.knows("127.0.0.1")


async def test_a_host_is_known_when_an_endpoint_resolved_to_it(tmp_path, namespaces):
    with names(tmp_path / "hosts") as hosts:
        dialler = Dialler([Endpoint("peer.example", 1), Endpoint("127.0.0.7", 1)], None)
        hosts.write_text("127.0.0.8 peer.example\n")
        assert not dialler.knows("127.0.0.7")
        await dialler.learn()
        assert dialler.knows("127.0.0.7")
        assert dialler.knows("127.0.0.8")
        hosts.write_text("127.0.0.9 peer.example\n")
        await dialler.learn()
        assert not dialler.knows("127.0.0.8"), "it is another's now"
        hosts.write_text("")
        await dialler.learn()
        assert dialler.knows("127.0.0.9"), "the resolver failed, and nothing new is known"


@pytest.mark.parametrize(
    ("listen", "source"),
    [
        pytest.param("127.0.0.3", "127.0.0.3", id="its-address"),
        pytest.param("0.0.0.0", "127.0.0.1", id="any-address"),
        pytest.param("::", "127.0.0.1", id="any-address-of-both-families"),
        pytest.param("::1", "127.0.0.1", id="the-other-family"),
    ],
)
async def test_it_connects_from_the_address_that_it_listens_on_where_that_can_reach_the_peer(server, listen, source):
    with (
        closing(tcp.listen(Endpoint(listen, 0))) as listener,
        closing(await Dialler([at(server)], listener).connect()) as link,
    ):
        assert link.local[0] == source
        assert link.local[1] != listener.getsockname()[1], "the port is one of the moment"


async def test_an_address_of_the_loopback_does_not_reach_another_and_is_not_tried(namespaces):
    address = AddressAdd("lo", ip_interface("192.0.2.77/32"), flags=IFA_F_NODAD, protocol=0)
    async with Kernel.open() as kernel:
        await kernel.execute(address)
        try:
            with (
                socket.create_server(("192.0.2.77", 0)) as server,
                closing(tcp.listen(Endpoint("127.0.0.3", 0))) as ours,
                closing(await Dialler([at(server)], ours).connect()) as link,
            ):
                assert link.local[0] == "192.0.2.77"
        finally:
            await kernel.execute(AddressDel("lo", address.address))


async def test_an_address_that_is_gone_is_a_reason_and_leaves_nothing_open(server, namespaces):
    before = open_descriptors()
    address = AddressAdd("lo", ip_interface("192.0.2.78/32"), flags=IFA_F_NODAD, protocol=0)
    async with Kernel.open() as kernel:
        await kernel.execute(address)
        listener = tcp.listen(Endpoint("192.0.2.78", 0))
        await kernel.execute(AddressDel("lo", address.address))
    with closing(listener):
        target = Endpoint("192.0.2.79", 1)
        assert await failure(Dialler([target], listener)) == f"{target}: Cannot assign requested address"
    assert open_descriptors() == before


async def test_cancelling_leaves_nothing_open(server):
    before = open_descriptors()
    for turns in range(6):
        task = asyncio.ensure_future(Dialler([at(server)], None).connect())  # noqa: TID251 - awaited below
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result().close()
    assert open_descriptors() == before
