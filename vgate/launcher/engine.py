"""An engine process as the launcher sees it."""

from __future__ import annotations

import time
from typing import Literal

from vgate.launcher.child import Child
from vgate.wire.control import EngineState


class SupervisedEngine:
    """An engine's process and the state that is reported to frontends.

    Args:
        child: The process.
        number: Its number in `Runtime.engines`.
        title: Its name for people; None if it is the only engine.

    Attributes:
        state: The state that was reported last.
        peer: The identity of its control link; None before its first message.
    """

    def __init__(self, child: Child, number: int, title: str | None) -> None:
        self.child = child
        self._number = number
        self._title = title
        self.peer: bytes | None = None
        self.state = EngineState("starting", "starting", time.time(), number)

    def enter(self, state: Literal["starting", "ready", "restarting"], detail: str) -> EngineState:
        """Change the state and return it."""
        restarts = max(0, self.child.restarts)
        self.state = EngineState(state, detail, time.time(), self._number, restarts)
        return self.state

    def label(self, phase: str) -> str:
        """Return a phase of its start for people, with its name if there are several engines."""
        return f"{self._title}: {phase}" if self._title else phase
