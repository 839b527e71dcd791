"""The peers of a sealed tunnel as those see them who make its links, over whatever transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunneld.config import PeerConfig
from tunneld.diagnosis import Diagnosis
from tunneld.links.state import PeerState


@dataclass(frozen=True, slots=True)
class Roster:
    """How each peer is configured, by its name, what is known of it, and who tells of causes."""

    configured: Mapping[str, PeerConfig]
    states: Mapping[str, PeerState]
    diagnosis: Diagnosis

    def settle(self) -> None:
        """Tell what the log was spared of the changes of any peer; see PeerState."""
        for state in self.states.values():
            state.settle()
