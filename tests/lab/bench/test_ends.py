"""The jobs, each served by a thread of its own, on loopback."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from tunneld.lab.bench import ends
from tunneld.lab.bench.ends import Window

HERE = "127.0.0.1"
SECONDS = 0.1


def test_the_rate_is_that_of_the_middle():
    window = Window(10)
    for second in range(13):
        # Half as fast in the warm-up, and a rest that arrives too late to count.
        window.note(100 + second, 50 * second if second <= 2 else 100 * second - 100)
    assert window.rate() == pytest.approx((800 - 100) / (9.5 - 2))


def test_a_window_in_which_nothing_arrives_has_no_rate():
    assert Window(10).rate() == 0
    late = Window(10)
    late.note(100, 0)
    late.note(111, 1000)
    assert late.rate() == 0


def test_a_stream_arrives_to_the_last_byte(receiver, sender):
    port = receiver.ask(job="receive_stream", address=HERE, seconds=SECONDS)["port"]
    sent = sender.ask(job="send_stream", address=HERE, port=port, seconds=SECONDS)
    received = receiver.answer()
    assert sent["sent"] == received["received"] > ends.BLOCK
    assert 0 < received["rate"] <= received["received"] / ((ends.DONE - ends.WARM) * SECONDS)
    assert 0 < sent["busy"] <= 2


def test_datagrams_are_sent_at_the_rate_asked_for_and_counted(receiver, sender):
    port = receiver.ask(job="receive_datagrams", address=HERE, payload="00ff", seconds=SECONDS)["port"]
    sent = sender.ask(job="send_datagrams", address=HERE, port=port, payload="00ff", seconds=SECONDS, rate=2000.0)
    receiver.tell(sent=sent["sent"])
    received = receiver.answer()
    assert (received["received"], received["strange"], received["overflown"]) == (sent["sent"], 0, 0)
    assert 0 < sent["sent"] <= 2000 * SECONDS + 1
    assert received["rate"] > 0


def test_an_overload_is_more_than_any_measured_rate(receiver, sender):
    port = receiver.ask(job="receive_datagrams", address=HERE, payload="00", seconds=SECONDS)["port"]
    sent = sender.ask(job="send_datagrams", address=HERE, port=port, payload="00", seconds=SECONDS, rate=None)
    receiver.tell(sent=sent["sent"])
    received = receiver.answer()
    assert sent["sent"] > 2000 * SECONDS
    assert 0 < received["received"] <= sent["sent"]


def test_what_nobody_sent_is_strange_and_what_does_not_come_is_not_waited_for(receiver, sender):
    port = receiver.ask(job="receive_datagrams", address=HERE, payload="aa", seconds=SECONDS)["port"]
    sent = sender.ask(job="send_datagrams", address=HERE, port=port, payload="ab", seconds=SECONDS, rate=100.0)
    receiver.tell(sent=sent["sent"] + 1)
    received = receiver.answer()
    assert (received["received"], received["strange"]) == (0, sent["sent"])


def test_echoes_come_back(sender):
    pinged = sender.ask(job="ping", address=HERE, seconds=SECONDS)
    assert len(pinged["times"]) == pinged["sent"] > 5
    assert all(0 < time < ends.LOST for time in pinged["times"])


def test_what_is_no_echo_of_ours_is_no_answer(sender, monkeypatch):
    monkeypatch.setattr(ends, "LOST", 0.02)
    # The kernel answers to every address of its loopback, but to a timestamp request (13) with no echo.
    monkeypatch.setattr(ends, "_ECHO_REQUEST", 13)
    assert sender.ask(job="ping", address=HERE, seconds=SECONDS)["times"] == []


def test_a_failure_is_an_answer_and_the_next_job_is_done(sender):
    with socket.create_server((HERE, 0)) as closed:
        port = closed.getsockname()[1]
    refused = sender.ask(job="send_stream", address=HERE, port=port, seconds=SECONDS)
    assert refused == {"error": "send stream: [Errno 111] Connection refused"}
    assert sender.ask(job="ping", address=HERE, seconds=SECONDS)["times"]


class Bench:
    """The other side of a channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._lines = sock.makefile("r")

    def tell(self, **words: object) -> None:
        self.socket.sendall(json.dumps(words).encode() + b"\n")

    def answer(self) -> dict[str, object]:
        return json.loads(self._lines.readline())

    def ask(self, **words: object) -> dict[str, object]:
        self.tell(**words)
        return self.answer()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def served():
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=ends.serve, args=(theirs,))
    thread.start()
    bench = Bench(ours)
    try:
        yield bench
    finally:
        bench.close()
        thread.join(10)
        theirs.close()
        assert not thread.is_alive()


@pytest.fixture
def receiver(namespaces):
    yield from served()


@pytest.fixture
def sender(namespaces):
    yield from served()
