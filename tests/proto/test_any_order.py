"""Two whole tunnels on a network that does anything, or nothing but to take its time."""

import random
from collections import deque

import pytest

from tests.proto.ends import (
    NOW,
    TO_A,
    TO_B,
    association,
    elapse,
    events,
    everything,
    messages,
    pair,
    passes,
    send,
    told,
)  # fmt: skip
from tunneld.proto.events import Established
from tunneld.proto.profile import WIREGUARD, MessageType, tunneld_profile

TUN = tunneld_profile("udp", "tun", "chacha20-poly1305")


def play(profile, seed):
    """Thirty steps in which anything that a network and two ends may do is done; returns the ends and the time."""
    lots = random.Random(seed)
    wire, now, under_way = pair(profile, jitter=lots.random, keepalive=lots.choice((0.0, 25.0))), NOW, []
    for _ in range(30):
        action = lots.choice(("send", "send", "deliver", "deliver", "deliver", "drop", "again", "wait", "initiate"))
        name = lots.choice("ab")
        if action == "send":
            wire.tunnels[name].enqueue([TO_B if name == "a" else TO_A], now)
        elif action == "initiate":
            association(wire.tunnels[name]).initiate(now)
        elif action == "wait":
            now += lots.choice((0.01, 1.0, 5.4, 11.0, 16.0, 121.0, 181.0))
            for tunnel in wire.tunnels.values():
                tunnel.handle_timeout(now)
        elif under_way:
            at = lots.randrange(len(under_way)) if lots.random() < 0.5 else 0
            sender, receiver, message = under_way[at] if action == "again" else under_way.pop(at)
            if action != "drop":
                wire.deliver(sender, receiver, [message], now)
        for sender, tunnel in wire.tunnels.items():
            under_way += [(sender, link.name, message) for link, message in messages(tunnel, now)]
    return wire, now


def recovers(wire, now):
    """On a network without faults: what is sealed with keys that one end alone has lasts for one re-key."""
    for tunnel in wire.tunnels.values():
        events(tunnel)
    for start in (0.0, 16.0, 22.0):
        for name in "ab":
            send(wire, name, now + start)
        elapse(wire, now + start, now + start + (16.0 if start == 0.0 else 6.0))
    begun = [told(tunnel, Established) for tunnel in wire.tunnels.values()]
    return passes(wire, now + 28.0) and max(map(len, begun)) <= 3


@pytest.mark.volume
@pytest.mark.parametrize("profile", [WIREGUARD, TUN], ids=lambda profile: profile.settings)
@pytest.mark.parametrize("runs", [200, pytest.param(5_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_whatever_came_before_packets_pass_after_one_re_key(profile, runs):
    for seed in range(runs):
        wire, now = play(profile, seed)
        assert recovers(wire, now), seed


@pytest.mark.parametrize("seed", range(5))
def test_deadlines_are_complete(seed):
    """Ends that are asked only at the moments they tell do the same as ends that are asked every 10 ms."""
    found = []
    for often in (False, True):
        lots = random.Random(seed)
        wire, now = pair(TUN, keepalive=lots.choice((0.0, 3.0, 25.0))), NOW
        for _ in range(4):
            fate = lots.random()
            send(wire, lots.choice("ab"), now, lost=lambda *_, fate=fate: fate < 0.4)
            until = now + lots.choice((0.5, 4.0, 8.0))
            cut = {"lost": everything} if lots.random() < 0.3 else {}
            while often and now < until - 0.005:
                now += 0.01
                for tunnel in wire.tunnels.values():
                    tunnel.handle_timeout(now)
                wire.settle(now, **cut)
            now = elapse(wire, now, until, **cut)
        found.append((wire.sent_at, [len(message) for _, _, message in wire.seen]))
    assert found[0][1] == found[1][1]
    assert found[0][0] == pytest.approx(found[1][0], abs=0.1)


class Path:
    """A wire on which everything takes 25 ms."""

    DELAY = 0.025

    def __init__(self, wire) -> None:
        self.wire = wire
        self.under_way: deque[tuple[float, str, str, bytes]] = deque()
        self.initiations = 0

    def pass_time(self, now: float, until: float) -> None:
        """Let arrive what is under way, and do what is due, until then."""
        while self.under_way and self.under_way[0][0] <= until:
            now, sender, receiver, message = self.under_way.popleft()
            self.wire.deliver(sender, receiver, [message], now)
            self.take(now)
        for tunnel in self.wire.tunnels.values():
            tunnel.handle_timeout(until)
        self.take(until)

    def take(self, now: float) -> None:
        for name, tunnel in self.wire.tunnels.items():
            for link, message in messages(tunnel, now):
                self.under_way.append((now + self.DELAY, name, link.name, message))
                self.initiations += message[0] & 0x7F == MessageType.INITIATION


@pytest.mark.parametrize("profile", [WIREGUARD, TUN], ids=lambda profile: profile.settings)
@pytest.mark.parametrize(("between", "initiations"), [(0.0, 4), (0.01, 4), (0.04, 4), (0.1, 3)])
def test_a_network_without_loss_loses_nothing_when_keys_are_renewed(profile, between, initiations):
    """Both ends begin within one round trip, or not; packets go both ways, thick where keys are renewed."""
    wire = pair(profile)
    path, sent, now = Path(wire), 0, NOW
    while now < NOW + 260:
        for name, packet, start in (("a", TO_B, 0.0), ("b", TO_A, between)):
            if now >= NOW + start:
                wire.tunnels[name].enqueue([packet], now)
                sent += 1
        path.take(now)
        step = 0.005 if any(abs(now - NOW - moment) < 0.3 for moment in (0, 120, 130, 240, 250)) else 0.5
        path.pass_time(now, now + step)
        now += step
    path.pass_time(now, now + 1)
    assert len(wire.received["a"]) + len(wire.received["b"]) == sent
    assert path.initiations == initiations, "of two that cross at the beginning there is one each later"
