"""How many replicas each model has, and which GPUs each of them gets. Pure.

A model without `devices` gets free ones, in the order of the models. One with a single replica that
finds none free shares the first ones, as models do that are not replicated.
"""

from collections.abc import Sequence

from vgate.config.load import ConfigError
from vgate.config.model import Model
from vgate.config.schema import Config

# The devices of one replica; empty: those that the process sees anyway.
Devices = tuple[str, ...]


def uses_devices(config: Config) -> bool:
    """Whether `place` needs to know the machine's GPUs."""
    return any(model.replicas != 1 or model.devices for model in config.all_models)


def place(config: Config, gpus: Sequence[str]) -> list[list[Devices]]:
    """Return the devices of each replica of each model.

    Args:
        config: Its models have `replicas` and `devices`.
        gpus: The machine's GPUs, as CUDA names them; none if it has none, or they aren't needed.

    Raises:
        ConfigError: They are too few, or some of them don't exist.
    """
    named = {str(device) for model in config.all_models for device in model.devices or ()}
    free = [gpu for gpu in gpus if gpu not in named]
    placed: list[list[Devices]] = []
    problems: list[str] = []
    for index, model in enumerate(config.all_models):
        where = f"additional_models[{index - 1}]" if index else "model"
        try:
            placed.append(_place(model, where, free, gpus) if uses_devices(config) else [()])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return placed


def _place(model: Model, where: str, free: list[str], gpus: Sequence[str]) -> list[Devices]:
    """Return the devices of a model's replicas, and take them from those that are free."""
    size = model.tensor_parallel_size * model.pipeline_parallel_size
    if model.distributed_executor_backend == "ray":
        if model.devices:
            raise ConfigError(f"{where}.devices: Ray chooses the devices; leave them out")
        return [()] * (1 if model.replicas == "auto" else model.replicas)
    devices = free if model.devices is None else [str(device) for device in model.devices]
    count = max(1, len(devices) // size) if model.replicas == "auto" else model.replicas
    if model.devices is not None:
        _check_named(devices, where, gpus)
    elif not gpus:
        return [()] * count
    elif count == 1 and len(free) < size:
        return [tuple(gpus[:size])]
    if len(devices) < count * size:
        raise ConfigError(_too_few(model, where, count, size, devices, gpus))
    parts = [tuple(devices[at : at + size]) for at in range(0, count * size, size)]
    if any(len(set(part)) < size for part in parts):
        raise ConfigError(
            f"{where}.devices: a replica needs {size} different GPUs, and each gets {size} of "
            f"{', '.join(devices)} in this order"
        )
    if model.devices is None:
        del free[: count * size]
    return parts


def _check_named(devices: Sequence[str], where: str, gpus: Sequence[str]) -> None:
    if not all(gpu.isdigit() for gpu in gpus):
        return  # by their UUIDs
    for device in devices:
        if gpus and device.isdigit() and device not in gpus:
            raise ConfigError(
                f"{where}.devices: there is no GPU {device} here; there are {', '.join(gpus)}"
            )


def _too_few(
    model: Model, where: str, count: int, size: int, devices: Sequence[str], gpus: Sequence[str]
) -> str:
    each = "" if size == 1 else f" of {size} GPUs (tensor_parallel_size x pipeline_parallel_size)"
    if model.devices is not None:
        have = f"{where}.devices names {len(devices)}"
    else:
        others = "" if len(gpus) == len(devices) else ", the other models have the rest"
        have = f"{len(devices)} of this machine's {len(gpus)} are free{others}"
    most = len(devices) // size
    return f"{where}.replicas: {count} replicas{each} need {count * size} GPUs, and {have}: " + (
        f"set {where}.replicas to {most} or auto" if most else "leave replicas out"
    )
