"""An engine process as the launcher sees it."""

from __future__ import annotations

import time
from typing import Literal

from vgate.launcher.child import Child
from vgate.wire.control import EngineState


class SupervisedEngine:
    """A child process and the state that frontends are told.

    Args:
        child: The process.
        number: Of the model that it serves.
        name: Name of the model, if there are several to tell apart.

    Attributes:
        state: What frontends were told last.
    """

    def __init__(self, child: Child, number: int, name: str | None) -> None:
        self.child = child
        self._number = number
        self._name = name
        self.state = EngineState("starting", "starting", time.time(), number)

    def enter(self, state: Literal["starting", "ready", "restarting"], detail: str) -> EngineState:
        """Change the state and return it."""
        restarts = max(0, self.child.restarts)
        self.state = EngineState(state, detail, time.time(), self._number, restarts)
        return self.state

    def label(self, phase: str) -> str:
        """Return a phase with the model's name, where several models load side by side."""
        return f"{self._name}: {phase}" if self._name else phase
