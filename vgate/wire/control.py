"""The messages between the launcher and its child processes, one union for each direction."""

from typing import ClassVar, Literal

import msgspec

from vgate.wire.parameters import Task


class ControlMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all control messages; the class name is the tag.

    Those of a child carry its `pid`, so that a message of a dead process isn't taken for one of its
    successor.
    """


class EnginePhase(ControlMessage, frozen=True):
    """The engine began a phase of its start, such as "loading weights", or goes on in one.

    `done_bytes` of the `total_bytes` of a download are there, or `done_tokens` of `total_tokens`
    have run.
    """

    pid: int
    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    done_tokens: int = 0
    total_tokens: int = 0


class EngineReady(ControlMessage, frozen=True):
    """The engine serves. `summary` describes it for people.

    `chat`: it takes conversations, since it has a chat template. `chosen`: what stands for `auto`
    and was lowered, and why, in words. `slowest_step_s`: what a step with a prompt as long as the
    context takes, as far as that is known.
    """

    pid: int
    summary: str
    max_model_len: int = 0
    kv_cache_tokens: int = 0
    chat: bool = True
    chosen: str = ""
    slowest_step_s: float = 0.0
    task: Task = "generate"


class EngineAsleep(ControlMessage, frozen=True):
    """The engine has finished its requests and sleeps until `Wake`, or until `Drain` ends it."""

    pid: int


class EngineBeat(ControlMessage, frozen=True):
    """The engine's heartbeat: its loop runs.

    `patience_s`: how long its next step may take before it counts as hung; None if it can't tell.
    `draining`: it ends once its requests are done.
    """

    pid: int
    patience_s: float | None = None
    draining: bool = False


class EngineFailed(ControlMessage, frozen=True):
    """The engine ends, for this reason. `permanent`: a restart would fail in the same way.

    `tells`: the operator has to know, although it is started again.
    """

    pid: int
    reason: str
    permanent: bool
    tells: bool = False


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


class Probe(ControlMessage, frozen=True):
    """`vgate engine --probe` asks how the engines are; the answer is `Probed`."""


class Reload(ControlMessage, frozen=True):
    """`vgate reload` asks for what SIGHUP does; the answer is `Reloaded`."""


class EngineOrder(ControlMessage, frozen=True):
    """An operator's order, from a frontend; the answer is `EngineOrdered` with its `id`.

    Attributes:
        engine: The engine's number in the topology.
        action: drain: it stays loaded and takes nothing new, until `resume`. restart: it is started
            again when its requests are done.
        force: Also if no other engine serves the model.
    """

    id: int
    engine: int
    action: Literal["drain", "resume", "restart"]
    force: bool = False


class Demand(msgspec.Struct, frozen=True):
    """What a frontend's requests want of one model.

    Attributes:
        waiting: How many wait for it to be loaded.
        running: How many it has.
        oldest_s: How long the first of those that wait has waited, in seconds.
        idle_s: How long ago the last request for it came or ended; None if none has come.
        keys: The API keys of those that wait, "" for none; `MOST_KEYS` of them at most.
    """

    MOST_KEYS: ClassVar[int] = 16

    waiting: int = 0
    running: int = 0
    oldest_s: float = 0.0
    idle_s: float | None = None
    keys: tuple[str, ...] = ()


class ModelDemand(ControlMessage, frozen=True):
    """What a frontend's requests want of the models that may be unloaded, by their names.

    Sent when a request begins to wait, and with heartbeats as long as there is any demand and once
    after it has ended. Each replaces the one before; a model that isn't in it has none.
    """

    pid: int
    models: dict[str, Demand]


class ModelOrder(ControlMessage, frozen=True):
    """An operator's order, from a frontend; the answer is `EngineOrdered` with its `id`.

    Attributes:
        model: The first of the model's served names.
        action: load: now, as if a request named it. unload: once its requests are done, until a
            request names it.
        force: Also unload a pinned model.
    """

    id: int
    model: str
    action: Literal["load", "unload"]
    force: bool = False


FromEngine = EnginePhase | EngineReady | EngineAsleep | EngineBeat | EngineFailed
ToLauncher = FromEngine | FrontendBeat | Reload | EngineOrder | Probe | ModelDemand | ModelOrder


StateName = Literal["ready", "draining", "starting", "restarting", "failed", "unloaded", "queued"]


class EngineState(ControlMessage, frozen=True):
    """An engine's state, for `/ready` and for the errors of requests that can't be served.

    Attributes:
        state: failed: it can't be kept running, and is tried again from time to time. unloaded: no
            request wants it, and one that does has it loaded. queued: it waits for other models to
            make room.
        detail: In words, such as "loading weights".
        since: Unix time at which the state began, in seconds.
        engine: The engine's number in the topology.
        ahead: How many models are loaded before it, while it is queued.
        loads, unloads: How often it was loaded and unloaded as requests or operators wanted.
        drained: It takes nothing new until an operator resumes it.
    """

    state: StateName
    detail: str
    since: float
    engine: int = 0
    restarts: int = 0
    ahead: int = 0
    loads: int = 0
    unloads: int = 0
    drained: bool = False


class Drain(ControlMessage, frozen=True):
    """Take no new requests, and finish those in progress within `timeout_s`.

    A frontend ends the rest with an error and keeps running. An engine exits when it has finished,
    and at the latest after `timeout_s`.

    Attributes:
        delay_s: How long a frontend still takes requests first, and after the last answer that had
            begun. It is not ready any more, and closes each connection after an answer, so that
            clients go elsewhere.
        sleeps: An engine that can sleeps then, instead of ending.
    """

    timeout_s: float
    delay_s: float = 0.0
    sleeps: bool = False


class Wake(ControlMessage, frozen=True):
    """Serve again, after `EngineAsleep`; `EngineReady` tells that it does."""


class HandOver(ControlMessage, frozen=True):
    """Accept no more connections: another frontend does so on the same socket.

    Serve the connections that are there until their requests are done, and end then.
    """


class LedgerState(ControlMessage, frozen=True):
    """Why use can't be written to the ledger, for `/ready`; empty if it can."""

    problem: str


class Reloaded(ControlMessage, frozen=True):
    """The outcome of a `Reload`: whether new frontends serve, and what to tell, in words."""

    done: bool
    text: str


class EngineOrdered(ControlMessage, frozen=True):
    """The outcome of an engine's or a model's order: why it can't be carried out, or nothing."""

    id: int
    problem: str


class Cordon(ControlMessage, frozen=True):
    """Take no new requests (`on`), finish those in progress and stay; or take new ones again."""

    on: bool


class Probed(ControlMessage, frozen=True):
    """What is wrong with the engines of the instance, in words; "" if nothing is."""

    not_live: str
    not_ready: str


LauncherToFrontend = EngineState | Drain | HandOver | LedgerState | EngineOrdered
LauncherToEngine = Drain | Cordon | Wake
