"""The messages between the launcher and its child processes, one union for each direction."""

from typing import Literal

import msgspec


class ControlMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all control messages; the class name is the tag.

    Those of a child carry its `pid`, so that a message of a dead process isn't taken for one of its
    successor.
    """


class EnginePhase(ControlMessage, frozen=True):
    """The engine began a phase of its start, such as "loading weights"."""

    pid: int
    phase: str


class EngineReady(ControlMessage, frozen=True):
    """The engine serves. `summary` describes it for people."""

    pid: int
    summary: str


class EngineBeat(ControlMessage, frozen=True):
    """The engine's heartbeat: its loop runs.

    `patience_s`: how long its next step may take before it counts as hung; None if it can't tell.
    """

    pid: int
    patience_s: float | None = None


class EngineFailed(ControlMessage, frozen=True):
    """The engine ends, for this reason. `permanent`: a restart would fail in the same way."""

    pid: int
    reason: str
    permanent: bool


class FrontendBeat(ControlMessage, frozen=True):
    """A frontend's heartbeat.

    Attributes:
        not_ready_because: Why a request would not be served now; None if it would.
        draining: It has received `Drain`, so once `in_flight` is 0 it stays 0.
        problem: Why it will never be ready (it can't use a model's files); None if it may be.
        refused: An engine refuses it, because of its version.
    """

    pid: int
    not_ready_because: str | None
    in_flight: int
    draining: bool
    problem: str | None = None
    refused: bool = False

    @property
    def ready(self) -> bool:
        """Whether a request would be served now."""
        return self.not_ready_because is None


class Reload(ControlMessage, frozen=True):
    """`vgate reload` asks for what SIGHUP does; the answer is `Reloaded`."""


ToLauncher = EnginePhase | EngineReady | EngineBeat | EngineFailed | FrontendBeat | Reload


class EngineState(ControlMessage, frozen=True):
    """An engine's state, for `/ready` and for the errors of requests that can't be served.

    Attributes:
        detail: In words, such as "loading weights".
        since: Unix time at which the state began, in seconds.
        engine: The engine's number in the topology.
    """

    state: Literal["starting", "ready", "restarting"]
    detail: str
    since: float
    engine: int = 0
    restarts: int = 0


class Drain(ControlMessage, frozen=True):
    """Take no new requests, and finish those in progress within `timeout_s`.

    A frontend ends the rest with an error and keeps running. An engine exits when it has finished,
    and at the latest after `timeout_s`.
    """

    timeout_s: float


class HandOver(ControlMessage, frozen=True):
    """Accept no more connections: another frontend does so on the same socket.

    Serve the connections that are there until their requests are done, and end then.
    """


class Reloaded(ControlMessage, frozen=True):
    """The outcome of a `Reload`: whether new frontends serve, and what to tell, in words."""

    done: bool
    text: str


LauncherToFrontend = EngineState | Drain | HandOver
LauncherToEngine = Drain
