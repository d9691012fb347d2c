"""The served models, by the names that requests use."""

from collections.abc import Callable, Iterator

from vgate.errors import SHUTTING_DOWN, ModelNotFoundError, ShuttingDownError
from vgate.frontend.engines.port import ModelState, ServedName
from vgate.frontend.engines.served_model import ServedModel
from vgate.wire.messages import Task


class ModelRegistry:
    """Implements `vgate.frontend.engines.port.Models`, and finds models by name.

    Args:
        models: The served models, the main one first.
        any_name: Whether a name that isn't served stands for a model; None: if only one model has
            the task.
        draining: Returns whether the server drains, and so refuses new requests.
    """

    def __init__(
        self, models: list[ServedModel], draining: Callable[[], bool], *, any_name: bool | None
    ) -> None:
        self._models = models
        self._any_name = any_name
        self._draining = draining
        self._adapters = {name for model in models for name in model.config.adapter_names}
        self._by_name = {
            name: model
            for model in models
            for name in [*model.config.served_names, *model.config.adapter_names]
        }

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __getitem__(self, index: int) -> ServedModel:
        return self._models[index]

    def names(self) -> list[ServedName]:
        """Return every name that requests may use: those of a model, then its adapters'."""
        found = []
        for model in self._models:
            config, info = model.config, model.text.info if model.text else None
            created = info.created if info else 0
            limit = info.max_model_len if info else config.max_model_len
            parents: dict[str, str | None] = dict.fromkeys(config.served_names)
            parents |= dict.fromkeys(config.adapter_names, config.name)
            found += [
                ServedName(name, created, config.model_id, parent, limit)
                for name, parent in parents.items()
            ]
        return found

    def states(self) -> list[ModelState]:
        """Return the state of each model, the main one first."""
        return [
            ModelState(
                model.name,
                model.config.task,
                model.not_ready_because() is None,
                model.state,
                model.engine.status,
            )
            for model in self._models
        ]

    def serves(self, name: str) -> bool:
        """Whether a model or an adapter has this name."""
        return name in self._by_name

    def find(self, name: str, task: Task | None = None) -> ServedModel:
        """Return the model that a request names; without a name, the first one with the task.

        Raises:
            ShuttingDownError: The server drains.
            ModelNotFoundError: No such model is served.
        """
        if self._draining():
            raise ShuttingDownError
        model = self._by_name.get(name)
        if model is None:
            able = [m for m in self._models if task in {None, m.config.task}] or self._models
            if not name or self._any_name or (self._any_name is None and len(able) == 1):
                return able[0]
            message = (
                f"the model `{name}` does not exist; served: {', '.join(self._by_name)} "
                "(the server's `model.served_model_name` gives a model other names)"
            )
            raise ModelNotFoundError(message, param="model")
        return model

    def adapter(self, name: str) -> str:
        """Return `name` if it is a LoRA adapter's; "" if it is a model's."""
        return name if name in self._adapters else ""

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if every model would serve it."""
        if self._draining():
            return SHUTTING_DOWN
        for model in self._models:
            if (reason := model.not_ready_because()) is not None:
                return reason if len(self._models) == 1 else f"{model.name}: {reason}"
        return None
