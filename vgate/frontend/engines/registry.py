"""The served models, by the names that requests use."""

from collections.abc import Collection, Iterator

from vgate.config.aliases import Alias
from vgate.config.schema import Config
from vgate.errors import SHUTTING_DOWN, ModelNotFoundError, ShuttingDownError
from vgate.frontend.engines.launcher_link import LauncherLink
from vgate.frontend.engines.port import STATUS, ModelState, ServedName
from vgate.frontend.engines.served_model import ServedModel
from vgate.keys import ApiKey
from vgate.wire.parameters import Task


class ModelRegistry:
    """Implements `vgate.frontend.engines.port.Models`, and finds models by name.

    Args:
        models: The served models, the main one first.
        launcher: Says whether the server is `stopping`, and so not ready, and whether it is
            `draining`, and so refuses requests.
        config: Has their aliases, and says whether other names stand for a model.
    """

    def __init__(self, models: list[ServedModel], launcher: LauncherLink, config: Config) -> None:
        self._models = models
        # Whether a name that isn't served stands for a model; None: if only one has the task.
        self._any_name = config.server.any_model_name
        self._launcher = launcher
        self._by_name = {
            name: model
            for model in models
            for name in [*model.config.served_names, *model.config.adapter_names]
        }
        self._adapters = {name: name for model in models for name in model.config.adapter_names}
        self._aliases = aliases = config.aliases
        self._restricted = any(alias.keys is not None for alias in aliases.values())
        for name, alias in aliases.items():
            self._by_name[name] = self._by_name[alias.model]
            if alias.model in self._adapters:
                self._adapters[name] = alias.model

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __getitem__(self, index: int) -> ServedModel:
        return self._models[index]

    def names(self) -> list[ServedName]:
        """Return every name that requests may use: a model's, its adapters', then their aliases."""
        found = []
        for model in self._models:
            config, info = model.config, model.info
            created = info.created if info else 0
            given = None if config.max_model_len == "auto" else config.max_model_len
            limit = info.max_model_len if info else given
            status = STATUS[model.state.state]
            parents: dict[str, str | None] = dict.fromkeys(config.served_names)
            parents |= dict.fromkeys(config.adapter_names, config.name)
            for name, alias in self._aliases.items():
                if alias.model in parents:
                    parents[name] = alias.model
            found += [
                ServedName(
                    name, created, config.model_id, parent, status, limit, name in self._aliases
                )
                for name, parent in parents.items()
            ]
        return found

    def states(self) -> list[ModelState]:
        """Return the state of each model, the main one first."""
        return [
            ModelState(
                model.name,
                tuple(name for name, of in self._by_name.items() if of is model),
                model.task or "auto",
                model.not_ready_because(),
                model.state,
                model.engine.status,
                model.replicas(),
                model.config.load if model.residence is not None else None,
                model.info,
            )
            for model in self._models
        ]

    def look(self) -> None:
        """End the waits for models that are over; call it when the state of an engine changed."""
        for model in self._models:
            model.look()

    def serves(self, name: str) -> bool:
        """Whether a model, an adapter or an alias has this name."""
        return name in self._by_name

    def allowed(self, key: ApiKey) -> Collection[str] | None:
        """Return the names that a key may use; None for all.

        A key for a model's name may use its aliases, and one for an alias that alone.
        """
        if not self._restricted and (key.models is None or not self._aliases):
            return key.models
        models = self._by_name if key.models is None else key.models
        found = set(models).difference(self._aliases)
        for name, alias in self._aliases.items():
            model = self._by_name[name].config.served_names
            own = [alias.model] if alias.model in self._adapters else model
            if alias.is_for(key) and (name in models or any(each in models for each in own)):
                found.add(name)
        return found

    def find(
        self, name: str, tasks: tuple[Task, ...] = (), allowed: Collection[str] | None = None
    ) -> ServedModel:
        """Return the model that a request names; without a name, the first with one of the tasks.

        To a request that only some names are `allowed`, there are no others.

        Raises:
            ShuttingDownError: The server drains.
            ModelNotFoundError: No such model is served.
        """
        if self._launcher.draining:
            raise ShuttingDownError
        known = self._by_name
        if allowed is not None:
            known = {each: model for each, model in known.items() if each in allowed}
        model = known.get(name)
        if model is None:
            models = [m for m in self._models if not known.keys().isdisjoint(m.config.served_names)]
            able = [m for m in models if not tasks or (m.task or "generate") in tasks] or models
            any_name = self._any_name or (self._any_name is None and len(able) == 1)
            # A name that is served, to others, stands for no model.
            if able and (not name or (any_name and name not in self._by_name)):
                return able[0]
            message = (
                f"the model `{name}` does not exist; served: {', '.join(known)} "
                "(the server's `model.served_model_name` gives a model other names)"
            )
            raise ModelNotFoundError(message, param="model")
        return model

    def adapter(self, name: str) -> str:
        """Return the LoRA adapter that a name, or its alias, stands for; "" for a model."""
        return self._adapters.get(name, "")

    def alias(self, name: str) -> Alias | None:
        """Return the alias of this name; None if it isn't one."""
        return self._aliases.get(name)

    def answer_name(self, name: str, model: ServedModel) -> str:
        """Return the name that a model's answers carry: an alias', an adapter's, or its first."""
        return name if name in self._aliases or name in self._adapters else model.name

    def not_ready_because(self) -> str | None:
        """Return why a request would not be served now; None if every model would serve it."""
        if self._launcher.stopping:
            return SHUTTING_DOWN
        for model in self._models:
            if (reason := model.not_ready_because()) is not None:
                return reason if len(self._models) == 1 else f"{model.name}: {reason}"
        return None
