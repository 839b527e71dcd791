from __future__ import annotations

from tunneld.lab.clocked import STEP, Moved, off_by
from tunneld.lab.daemon import CLOCKED, Daemon

CONFIG = """\
[tunnel]
protocol = "plain"
listen = "{own}:55555"
[interface]
name = "t0"
addresses = ["10.9.0.1/24"]
[[peer]]
"""


def test_the_clock_goes_as_the_other_one_and_is_moved_on():
    clock = Moved(iter([1.0, 2.5, 3.0]).__next__)
    assert clock.now() == 1.0
    clock.move()
    assert clock.now() == 2.5 + STEP
    clock.move()
    assert clock.now() == 3.0 + 2 * STEP


def test_the_wall_clock_is_off_by_what_the_file_says(tmp_path):
    (tmp_path / "off").write_text("-3600")
    clock = off_by(tmp_path / "off", iter([10_000.0, 10_001.0]).__next__)
    assert clock() == 6_400.0
    (tmp_path / "off").write_text("86400.5\n")
    assert clock() == 96_401.5


async def test_a_daemon_believes_that_two_minutes_have_passed(pair):
    daemon = Daemon.start(pair.left, CONFIG.format(own=pair.left_v4), name="t", command=CLOCKED)
    await daemon.wait_ready()
    assert (await daemon.status())["uptime"] < STEP
    daemon.move_clock()
    assert STEP <= (await daemon.status())["uptime"] < 2 * STEP
    assert await daemon.stop() == 0
