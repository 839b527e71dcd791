"""The whole of the bench: set up, interleaved rounds, and everything gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunneld.edge import clock
from tunneld.lab import topology
from tunneld.lab.bench import rig
from tunneld.lab.bench.measure import Sample, sample
from tunneld.lab.bench.remote import MeasureError
from tunneld.lab.bench.rig import Tunnel, Variant
from tunneld.lab.daemon import DaemonEndedError


@dataclass(frozen=True, slots=True)
class Settings:
    """`seconds` is the duration of the single measurement, of which a sample has about nine."""

    rounds: int = 3
    seconds: float = 0.3


QUICK = Settings(rounds=1, seconds=0.15)


@dataclass(frozen=True, slots=True)
class Results:
    """The samples of each way by round; the bare cable is the first way. `seconds` is the duration of the run."""

    settings: Settings
    seconds: float
    samples: dict[str, list[Sample]]


async def run(settings: Settings, variants: Sequence[Variant], progress: Callable[[str], None]) -> Results:
    """Measure the bare cable and the tunnels. `progress` is told what is being done.

    Call `sandbox.enter` before. Raises MeasureError, OSError.
    """
    began = clock.now()
    async with topology.Lab.open() as lab:
        hosts = await topology.pair(lab)
        progress("starting the daemons")
        try:
            tunnels = [Tunnel.start(variant, number, hosts) for number, variant in enumerate(variants)]
            ends = await rig.ends(hosts)
            for tunnel in tunnels:
                await tunnel.wait_up()
            ways = [rig.bare(hosts), *(tunnel.way for tunnel in tunnels)]
            samples: dict[str, list[Sample]] = {way.name: [] for way in ways}
            for number in range(settings.rounds):
                # Interleaved, and beginning with another way each time: whatever slows the machine hits all of them.
                turn = number % len(ways)
                for way in ways[turn:] + ways[:turn]:
                    progress(f"round {number + 1} of {settings.rounds}: {way.name}")
                    try:
                        samples[way.name].append(await sample(way, ends, settings.seconds))
                    except MeasureError as error:
                        raise MeasureError(f"{way.name}: {error}") from None
        except DaemonEndedError as error:
            raise MeasureError(str(error)) from None
        except TimeoutError:
            raise MeasureError("the daemons run, but no packet passes through the tunnel") from None
    return Results(settings, clock.now() - began, samples)
