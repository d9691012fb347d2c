"""Models that aren't always loaded: who waits for one, and what the launcher is told of that."""

from vgate.frontend.engines.residency.residence import (
    Residence,
    WaitingRoom,
    situation,
    unavailable,
)
from vgate.frontend.engines.residency.wanted import Wanted

__all__ = ["Residence", "WaitingRoom", "Wanted", "situation", "unavailable"]
