"""The messages between the launcher and the processes that it starts."""

from __future__ import annotations

from typing import Literal

import msgspec


class ControlMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all control messages; the class name is the tag."""


# ---- to the launcher


class EnginePhase(ControlMessage, frozen=True):
    """The engine began a phase of its start; None once it serves.

    Attributes:
        pid: The engine process, so that a message of a dead one isn't taken for its successor's.
        phase: In words, such as "loading weights".
    """

    pid: int
    phase: str


class EngineReady(ControlMessage, frozen=True):
    """The engine serves. `summary` says with what, for people."""

    pid: int
    summary: str


class EngineBeat(ControlMessage, frozen=True):
    """The engine's loop is turning."""

    pid: int
    running: int
    waiting: int


class EngineFailed(ControlMessage, frozen=True):
    """The engine ends because of this. `permanent`: a restart would end in the same way."""

    pid: int
    reason: str
    permanent: bool


class FrontendBeat(ControlMessage, frozen=True):
    """A frontend is alive.

    Attributes:
        worker: Its number, from 1.
        ready: It would serve a request now.
        in_flight: Requests being answered.
        draining: It has heard `Drain`, so a zero in `in_flight` is final.
        problem: Why it will never be ready, if that is so: a model's text files can't be used.
    """

    worker: int
    pid: int
    ready: bool
    in_flight: int
    draining: bool
    problem: str | None = None


ToLauncher = EnginePhase | EngineReady | EngineBeat | EngineFailed | FrontendBeat


# ---- from the launcher


class EngineState(ControlMessage, frozen=True):
    """Where an engine is, for `/ready` and for refusing requests with a reason.

    Attributes:
        engine: Its number.
        restarts: How often it was started again.
        state: What it does.
        detail: In words, such as "loading weights".
        since: Unix time of the state's begin.
    """

    state: Literal["starting", "ready", "restarting"]
    detail: str
    since: float
    engine: int = 0
    restarts: int = 0


class Drain(ControlMessage, frozen=True):
    """Finish what runs and take nothing new; after `timeout_s` end what is left with an error."""

    timeout_s: float


FromLauncher = EngineState | Drain
