"""What a model does, as its files tell: vLLM's rule for `runner: auto`, without vLLM."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from vgate.config.model import Model, Task
from vgate.config.models.catalogue import entry
from vgate.config.models.known import known_vllm
from vgate.config.models.names import cached_snapshot, expanded, is_directory
from vgate.config.models.reading import content_of
from vgate.config.models.settings import CheckpointError


def known_task(model: Model) -> Task | None:
    """Return what a model does; None if only its files tell, and they aren't on this machine.

    It may be wrong of a model whose download was interrupted: its engine has the last word.
    """
    if model.task != "auto":
        return model.task
    if (found := entry(model.model_id)) is not None:
        return found.task
    path = expanded(model.model_id)
    directory = path if is_directory(path) else cached_snapshot(model.model_id, model.revision)
    if directory is None or not (directory / "config.json").is_file():
        return None
    return task_in(directory, model)


def with_task(model: Model, directory: Path) -> Model:
    """Return a model with the task that its files in a directory tell in the place of `auto`."""
    return msgspec.structs.replace(model, task=task_in(directory, model))


def task_in(directory: Path, model: Model) -> Task:
    """Return what a model does whose files are in a directory; "generate" if they don't tell."""
    if model.task != "auto":
        return model.task
    given = model.engine_args
    if (task := given.get("convert")) in {"embed", "classify"}:
        return task  # type: ignore[no-any-return]
    document, overrides = _content(directory / "config.json"), given.get("hf_overrides")
    document = document if isinstance(document, dict) else {}
    names = (document | overrides if isinstance(overrides, dict) else document).get("architectures")
    task = known_vllm().task_of(map(str, names if isinstance(names, list) else []))
    runner = given.get("runner", "auto")
    pools = runner == "pooling" or (runner == "auto" and _has_pooling(directory))
    return "embed" if pools and task == "generate" else task


def _has_pooling(directory: Path) -> bool:
    """Whether sentence-transformers would make one embedding of the model's output."""
    modules = _content(directory / "modules.json")
    modules = modules if isinstance(modules, list) else []
    return any(
        isinstance(module, dict) and module.get("type") in known_vllm().pooling
        for module in modules
    )


def _content(path: Path) -> Any:
    """Return what a JSON file holds; None if it can't be read, which others report."""
    with suppress(CheckpointError, OSError, ValueError, RecursionError):
        return json.loads(content_of(path))
    return None
