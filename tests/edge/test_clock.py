from __future__ import annotations

from pathlib import Path

from tunneld.edge import clock


def test_now_is_the_time_since_boot_and_never_goes_back():
    readings = [clock.now() for _ in range(1000)]
    uptime = float(Path("/proc/uptime").read_text().split()[0])  # counts suspended time too: CLOCK_BOOTTIME

    assert readings == sorted(readings)
    assert abs(clock.now() - uptime) < 5
