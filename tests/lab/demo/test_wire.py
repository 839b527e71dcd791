from __future__ import annotations

import pytest

from tunneld.lab import network
from tunneld.lab.demo import wire


async def test_what_is_said_beside_every_tunnel_is_seen(pair):
    heard = await wire.say(pair, pair.right_v4, 7007)
    assert len(heard.messages) == wire.TIMES
    assert set(heard.messages) == {wire.MARKER}
    assert heard.showing() == wire.TIMES


async def test_what_does_not_arrive_is_noticed(pair, monkeypatch):
    monkeypatch.setattr(wire, "PATIENCE", 0.1)
    await network.set_state(pair.right, "eth0", "down")
    with pytest.raises(TimeoutError):
        await wire.say(pair, pair.right_v4, 7007)


@pytest.mark.parametrize(("columns", "rows"), [(60, 8), (80, 4)])
def test_rows_are_as_wide_as_the_terminal_lets_them_be(screen, stream, monkeypatch, columns, rows):
    monkeypatch.setenv("COLUMNS", str(columns))
    wire.show(screen, bytes(200), "192.0.2.1 > 192.0.2.2", "good")
    first, *lines = stream.getvalue().splitlines()
    assert first.strip() == "192.0.2.1 > 192.0.2.2 UDP, 200 bytes:"
    assert len(lines) == rows
    assert max(map(len, lines)) <= columns
