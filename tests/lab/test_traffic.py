"""left ── router (bad wire) ── right"""

from __future__ import annotations

import hashlib

import pytest

from tunneld.lab import topology, traffic
from tunneld.lab.impairment import Impairment
from tunneld.lab.tcp_relay import TcpRelay
from tunneld.lab.udp_relay import UdpRelay


@pytest.fixture
async def routed(lab):
    return await topology.routed(lab)


@pytest.mark.parametrize("family", ["v4", "v6"])
async def test_a_file_arrives_whole_and_its_rate_is_measured(pair, tmp_path, family):
    source, target = tmp_path / "source", tmp_path / "target"
    traffic.make_file(source, 3_000_001)
    seen = []
    done = await traffic.transfer(
        pair.left, source, pair.right, target, (getattr(pair, f"right_{family}"), 7000), progress=seen.append
    )
    assert done.intact
    assert done.size == 3_000_001 == seen[-1]
    assert target.read_bytes() == source.read_bytes()
    assert done.sent == hashlib.sha256(source.read_bytes()).hexdigest()
    assert done.rate == pytest.approx(done.size * 8 / done.seconds)


def test_a_file_is_the_same_for_the_same_seed_only(tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        traffic.make_file(tmp_path / name, 300_000, seed)
    assert traffic.digest(tmp_path / "one") == traffic.digest(tmp_path / "same") != traffic.digest(tmp_path / "other")


async def test_a_damaged_file_is_noticed(routed, tmp_path):
    """The receiver listens behind a relay that flips bits."""
    source, target = tmp_path / "source", tmp_path / "target"
    traffic.make_file(source, 100_000)
    address, via = (routed.right_v4, 7000), (routed.west_v4, 7000)
    with TcpRelay(routed.router, via, address, impairment=Impairment(corrupt=1.0)):
        done = await traffic.transfer(routed.left, source, routed.right, target, address, via=via)
    assert done.size == 100_000
    assert not done.intact


async def test_a_transfer_that_finds_nobody_is_an_error_within_its_time(pair, tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(OSError, match="Cannot assign"):
        await traffic.transfer(pair.left, tmp_path / "source", pair.right, tmp_path / "target", (pair.left_v4, 7000))


@pytest.mark.parametrize("family", ["v4", "v6"])
async def test_a_blast_over_a_good_wire_arrives_once_and_in_order(pair, family):
    address = (getattr(pair, f"right_{family}"), 7000)
    done = await traffic.blast(pair.left, pair.right, address, count=500, quiet=0.1)
    assert done == traffic.Blast(sent=500, received=500, duplicated=0, reordered=0, corrupted=0)
    assert done.lost == 0


@pytest.mark.parametrize(
    ("impairment", "figure"),
    [
        (Impairment(loss=0.3), "lost"),
        (Impairment(duplicate=0.3), "duplicated"),
        (Impairment(reorder=0.3, hold=0.005), "reordered"),
        (Impairment(corrupt=0.3), "corrupted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_blast_counts_what_a_bad_wire_does(routed, impairment, figure):
    """The datagrams are addressed to the relay, which passes them on."""
    target = (routed.right_v4, 7000)
    with UdpRelay(routed.router, (routed.west_v4, 7000), target, seed=1, impairment=impairment):
        done = await traffic.blast(
            routed.left, routed.right, target, via=(routed.west_v4, 7000), count=300, gap=0.0005, quiet=0.1
        )
    assert 50 < getattr(done, figure) < 140
