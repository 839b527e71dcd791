from __future__ import annotations

import pytest

from tunneld.lab.demo import plain


async def test_the_capture_shows_the_secret_and_nothing_goes_on(pair, screen, stream, steps):
    await plain.play(screen, pair)
    shown = stream.getvalue()
    assert steps() == ["daemons", "wire"]
    assert "|e password is sw|" in shown
    assert "inside: 10.9.1.1:" in shown
    assert not list(pair.left.run_dir.glob("*.sock"))


@pytest.mark.parametrize("records", [[b""], [b"a", b"bcd"], [bytes(300)]])
def test_records_are_the_packets_with_their_lengths(records):
    cut = list(plain._records(b"".join(len(record).to_bytes(2, "big") + record for record in records)))
    assert [record[2:] for record in cut] == records
