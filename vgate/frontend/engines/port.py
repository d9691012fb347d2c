"""The served models, as other rooms see them."""

from typing import Protocol

import msgspec

from vgate.wire.control import EngineState
from vgate.wire.messages import Status, Task


class ServedName(msgspec.Struct, frozen=True):
    """A name that requests may use.

    Attributes:
        created: Unix time at which the engine became ready; 0 while it is not known.
        root: The model's id as configured.
        parent: The model that a LoRA adapter belongs to; None for a model itself.
        max_model_len: Most tokens of prompt and answer together.
    """

    name: str
    created: int
    root: str
    parent: str | None
    max_model_len: int


class ModelState(msgspec.Struct, frozen=True):
    """The state of a served model.

    Attributes:
        name: The name that answers carry.
        ready: Whether a request would be served now.
        engine: The state of its engines that the launcher reported.
        status: The engines' last heartbeats, combined.
    """

    name: str
    task: Task
    ready: bool
    engine: EngineState
    status: Status


class Models(Protocol):
    """The served models."""

    def names(self) -> list[ServedName]:
        """Return every name that requests may use: those of a model, then its adapters'."""

    def states(self) -> list[ModelState]:
        """Return the state of each model, the main one first."""

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if every model would serve it."""
