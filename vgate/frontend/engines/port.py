"""The served models, as other rooms see them."""

from collections.abc import Collection
from typing import Any, Literal, Protocol

import msgspec

from vgate.wire.control import EngineState, StateName
from vgate.wire.messages import ModelInfo, Status
from vgate.wire.parameters import Task

# What a state is called where clients see it: as in llama.cpp's router, as far as that has a word.
STATUS: dict[StateName, str] = {
    "ready": "loaded",
    "starting": "loading",
    "restarting": "loading",
    "draining": "unloading",
    "queued": "queued",
    "unloaded": "unloaded",
    "failed": "failed",
}


class ServedName(msgspec.Struct, frozen=True):
    """A name that requests may use.

    Attributes:
        created: Unix time at which the engine became ready; 0 while it is not known.
        root: The model's id as configured.
        parent: The model that a LoRA adapter belongs to, or what an alias stands for; None for a
            model itself.
        status: Whether its model is loaded, in the words of `STATUS`.
        max_model_len: Most tokens of prompt and answer together; None while the engine that chooses
            them has not said.
        is_alias: Whether it is an alias.
    """

    name: str
    created: int
    root: str
    parent: str | None
    status: str
    max_model_len: int | None
    is_alias: bool = False


class ReplicaState(msgspec.Struct, frozen=True):
    """The state of one of a model's engines.

    Attributes:
        number: The engine's number.
        replica: Its number among the engines of the model.
        serves: Whether it takes new requests.
        engine: The state that the launcher reported.
        status: The engine's last heartbeat; without load while it isn't connected.
    """

    number: int
    replica: int
    serves: bool
    engine: EngineState
    status: Status


class ModelState(msgspec.Struct, frozen=True):
    """The state of a served model.

    Attributes:
        name: The name that answers carry.
        names: All that requests may use for it: its own, its adapters' and aliases.
        task: What it does; "auto" until that is known.
        not_ready_because: Why a request would not be served now; None if it would, if only after
            the model was loaded.
        engine: The state of its engines that the launcher reported.
        status: The engines' last heartbeats, combined.
        replicas: Its engines, one by one.
        load: When it is loaded; None if it stays so from start to end.
        info: What the engines say of the model; None before one has.
    """

    name: str
    names: tuple[str, ...]
    task: Task | Literal["auto"]
    not_ready_because: str | None
    engine: EngineState
    status: Status
    replicas: list[ReplicaState]
    load: str | None = None
    info: ModelInfo | None = None

    @property
    def ready(self) -> bool:
        """Whether a request would be served."""
        return self.not_ready_because is None


class Models(Protocol):
    """The served models."""

    def names(self) -> list[ServedName]:
        """Return every name that requests may use: a model's, its adapters', then their aliases."""

    def allowed(self, key: Any) -> Collection[str] | None:
        """Return the names that a request's API key may use; None for all."""

    def states(self) -> list[ModelState]:
        """Return the state of each model, the main one first."""

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if every model would serve it."""
