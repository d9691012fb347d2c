"""What models take of the memory, and how much there is: from settings, or as `vgate fit` says."""

from collections.abc import Iterator

import msgspec

from vgate.config import Config, ConfigError, Runtime
from vgate.config.devices import Devices
from vgate.config.model import Model
from vgate.config.runtime import DRY_RUN, Role
from vgate.config.section import MIB
from vgate.fit import FitError, estimate, read_checkpoint
from vgate.fit.checkpoint import ReadPart
from vgate.fit.estimate import context_of
from vgate.fit.gpu import Card
from vgate.fit.hub import from_hub
from vgate.fit.nvidia import cards
from vgate.launcher.residency.room import Room
from vgate.launcher.residency.sleep import as_running, places, with_sleep, without_sleepers
from vgate.sizing.choice import settings_of
from vgate.sizing.room import gib, gpu_room, host_memory, is_wsl

# Of the machine's free memory, where no GPU has its own.
_MEMORY_SHARE = 0.8
# A model without a context of its own is to have room for so many answers of so many tokens.
_CONTEXT, _SEQUENCES = 8192, 2
# An engine with vLLM and PyTorch on the CPU takes about so much beside the model.
_PROCESS_BYTES = 1024 * MIB
# A model of the dry-run engine of which nothing is known takes what its process does.
_DRY_RUN_BYTES = 128 * MIB
# Of a machine without GPUs whose numbers are known, all that models share.
_ALL = ""


def with_memory(config: Config, backend: str) -> Config:
    """Return the configuration with `memory_bytes` of each model, where models are unloaded.

    Raises:
        ConfigError: It isn't known of a model, or the settings for such models can't be.
    """
    if not config.unloads_models:
        return config
    card = _card(backend)
    config = with_sleep(config, backend, card)
    problems = [*_group_problems(config)]
    if config.memory_groups:
        if problems:
            raise ConfigError(*problems)
        return config
    sized: dict[str, int] = {}
    for model in config.all_models:
        try:
            sized[model.name] = _bytes_of(model, config, backend, card)
        except FitError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(*problems)
    return _with_bytes(config, sized)


def attainable(config: Config, backend: str) -> Config:
    """Return a configuration that was read again with `stop` where the start puts it for `sleep`.

    It asks the driver, which may take a second.
    """
    if not config.unloads_models or config.residency.unload != "sleep":
        return config
    unload = with_sleep(config, backend, _card(backend)).residency.unload
    return msgspec.structs.replace(
        config, residency=msgspec.structs.replace(config.residency, unload=unload)
    )


def carried_over(running: Config, wanted: Config) -> Config:
    """Return the wanted configuration with what was computed for the running one."""
    if not wanted.unloads_models:
        return wanted
    wanted = as_running(running, wanted)
    known = {m.name: m.memory_bytes for m in running.all_models if m.memory_bytes is not None}
    given = {m.name: m.memory_bytes for m in wanted.all_models if m.memory_bytes is not None}
    return _with_bytes(wanted, known | given)


def _with_bytes(config: Config, sizes: dict[str, int]) -> Config:
    def sized(model: Model) -> Model:
        size = sizes.get(model.name, model.memory_bytes)
        return msgspec.structs.replace(model, memory_bytes=size)

    return config.with_models(sized)


def residency_problems(
    config: Config, backend: str, role: Role, placed: list[list[Devices]]
) -> Iterator[str]:
    """Yield why models can't be loaded and unloaded.

    `config` has the `memory_bytes` of each model, and `placed` the devices of its replicas.
    """
    if not config.unloads_models:
        return
    if config.engines or role != "serve":
        yield (
            "load: on_demand, memory_groups and residency.memory_bytes are for the models of one "
            "machine: leave them out with engines on other hosts"
        )
        return
    room = _room(config, backend, placed)
    pinned = [model.name for model in config.all_models if model.load == "pinned"]
    for model in config.all_models:
        beside = {*pinned} - {model.name}
        if room.fits({model.name}, model.name):
            if not room.fits({model.name, *beside}, model.name):
                yield _too_large(model, room, sorted(beside))
        else:
            yield _too_large(model, room, [])


def room_of(runtime: Runtime) -> Room:
    """Return the memory that the models of an instance share."""
    devices: dict[str, list[Devices]] = {}
    for spec in runtime.engines:
        names = tuple(filter(None, spec.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")))
        devices.setdefault(spec.model, []).append(names)
    placed = [devices.get(model.name, [()]) for model in runtime.config.all_models]
    return _room(runtime.config, runtime.backend, placed)


def _room(config: Config, backend: str, placed: list[list[Devices]]) -> Room:
    """Return the room for models whose replicas have these devices; () stands for all of them."""
    used = sorted({name for each in placed for devices in each for name in devices}) or [_ALL]
    found = [] if backend == DRY_RUN else cards(1.0)
    # Of the machine's own memory, the process takes its part as well.
    own = config.residency.memory_bytes is None and not found and backend != DRY_RUN
    beside = _PROCESS_BYTES if own else 0
    needs: dict[str, dict[str, int]] = {}
    for model, replicas in zip(config.all_models, placed, strict=True):
        takes = needs.setdefault(model.name, {})
        for devices in replicas:
            for name in devices or used:
                takes[name] = takes.get(name, 0) + (model.memory_bytes or 0) + beside
    totals = {name: _total(config, found, name) for name in used}
    asleep = places(config, backend, totals.values())
    totals = without_sleepers(totals, asleep, backend)
    return Room(needs, totals, config.memory_groups, asleep)


def _total(config: Config, found: list[Card], device: str) -> int:
    """Return what models may take of a device together."""
    if config.residency.memory_bytes is not None:
        return config.residency.memory_bytes
    if not found:
        return int(host_memory() * _MEMORY_SHARE)
    if device.isdigit() and int(device) < len(found):
        found = [found[int(device)]]
    wsl = is_wsl()
    return min(
        gpu_room(
            card.total, card.total if card.free is None else card.free, desktop=False, wsl=wsl
        ).usable
        for card in found
    )


def _card(backend: str) -> Card | None:
    """Return the smallest of the machine's GPUs; None if it has none."""
    found = [] if backend == DRY_RUN else cards(1.0)
    return min(found, key=lambda card: card.total, default=None)


def _bytes_of(model: Model, config: Config, backend: str, card: Card | None) -> int:
    """Return what a replica of a model takes of each of its devices."""
    if model.memory_bytes is not None:
        return model.memory_bytes
    total = host_memory() if card is None else card.total
    if model.gpu_memory_utilization != "auto":
        return int(total * model.gpu_memory_utilization)

    def fetch(name: str) -> ReadPart:
        if backend == DRY_RUN:
            raise FitError("the dry-run engine loads nothing")
        return from_hub(name, model.revision)  # a few hundred kilobytes

    try:
        checkpoint = read_checkpoint(model.model_id, model.revision, fetch)
        given = model.max_model_len
        context = min(context_of(checkpoint.text), _CONTEXT) if given == "auto" else given
        settings = settings_of(model, config.batch, eager=card is None)
        offload = 0 if card is None else settings.offload
        settings = msgspec.structs.replace(settings, context=context, offload=offload)
        found = estimate(checkpoint, card or Card(total, 1.0), settings)
    except FitError as error:
        if backend == DRY_RUN:
            return _DRY_RUN_BYTES
        raise FitError(
            f"what {model.name} takes of the memory is not known: {error}. Set its "
            f"memory_bytes, or fetch it first: `vgate models pull {model.model_id}`"
        ) from None
    cache = _SEQUENCES * found.cache.sequence_bytes(context)
    parts = model.tensor_parallel_size * model.pipeline_parallel_size
    # What stays in main memory is counted for each device.
    weights = max(0, found.weights.total // parts - offload)
    return weights + cache // parts + found.overhead.total


def _group_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with `memory_groups`."""
    known = {model.name for model in config.all_models}
    for index, group in enumerate(config.memory_groups):
        for name in group:
            if name not in known:
                yield (
                    f"memory_groups[{index}] names {name}, and no model has this as its first "
                    f"name; there are {', '.join(sorted(known))}"
                )


def _too_large(model: Model, room: Room, beside: list[str]) -> str:
    others = f" beside the pinned {' and '.join(beside)}" if beside else ""
    if room.by_groups:
        return f"{model.name} is in no group of memory_groups{others}: add one with them"
    takes = max(room.needs[model.name].values())
    device, total = min(room.totals.items(), key=lambda pair: pair[1])
    taken = room.taken(beside, device)
    left = f", of which {gib(taken)} are taken{others}" if beside else ""
    return (
        f"{model.name} takes {gib(takes)}, and there are {gib(total)} for models{left}: lower "
        "its max_model_len or memory_bytes, take it more quantized, or raise residency.memory_bytes"
    )
