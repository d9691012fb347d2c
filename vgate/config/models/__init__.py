"""What can be said of a model before anything is loaded: its name, its files, its settings.

`vgate check`, the launcher and the engine, before it imports vLLM, say the same.
"""

from collections.abc import Iterator
from pathlib import Path

from vgate.config.model import Model
from vgate.config.models.adapters import read_adapters
from vgate.config.models.checkpoint import find_model, json_object
from vgate.config.models.settings import CheckpointError, check_engine_args
from vgate.config.schema import Config

__all__ = ["CheckpointError", "check_model", "model_problems"]


def model_problems(config: Config) -> Iterator[str]:
    """Yield why models can't be served, as far as it can be told without vLLM."""
    for model in config.all_models:
        for check in (check_engine_args, _check_files):
            try:
                check(model)
            except CheckpointError as error:
                yield str(error)


def check_model(model: Model) -> Path | None:
    """Return a model's directory, once checked; None if it is the name of a model on the Hub.

    Raises:
        CheckpointError: It can't be served.
    """
    check_engine_args(model)
    return _check_files(model)


def _check_files(model: Model) -> Path | None:
    directory = find_model(model)
    read_adapters(model, None if directory is None else json_object(directory / "config.json"))
    return directory
