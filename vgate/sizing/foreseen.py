"""What an engine would choose for `auto` if it started now, for `vgate check`."""

import msgspec

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.models.task import known_task
from vgate.fit import FitError, Settings, read_checkpoint
from vgate.fit.gpu import USUAL_SHARE, Card
from vgate.fit.nvidia import cards
from vgate.sizing.choice import Plan, for_gpu, for_host, is_bounded, settings_of
from vgate.sizing.room import Room, gpu_room, host_memory, host_room, is_wsl


def foreseen(config: Config) -> list[str]:
    """Return a line for each model that leaves sizes to its engine, or a task but to generate.

    Models are alone on the first GPU, or without one in the machine's memory.
    """
    pairs = [(model, known_task(model)) for model in config.all_models if model.task == "auto"]
    lines = [
        f"{model.name}: task {task}" for model, task in pairs if task not in {None, "generate"}
    ]
    automatic = [model for model in config.all_models if _is_automatic(model, config)]
    if not automatic:
        return lines
    found = cards(USUAL_SHARE)
    return lines + [f"{model.name}: {_line(model, config, found)}" for model in automatic]


def _is_automatic(model: Model, config: Config) -> bool:
    return "auto" in (
        *(model.max_model_len, model.gpu_memory_utilization),
        config.batch.max_num_seqs,
    )


def _line(model: Model, config: Config, found: list[Card]) -> str:
    kind = model.kv_cache_dtype
    if found and kind.startswith("fp8") and not found[0].fp8:
        return f"model.kv_cache_dtype is {kind}, which {found[0].name} can't: only since Ada (8.9)"
    try:
        checkpoint = read_checkpoint(model.model_id, model.revision)
        settings = settings_of(model, config.batch, eager=not found)
        if found:
            room, share, card = _gpu(model, found[0])
            bounded = is_bounded(model, config)
            plan = for_gpu(checkpoint, card, room, settings, bounded=bounded)
        else:
            room, share = host_room(host_memory(), bound=model.memory_bytes), ""
            plan = for_host(checkpoint, room, settings)
    except FitError as error:
        return f"the engine chooses for `auto`; that can't be foreseen: {error}"
    if plan.problem:
        return plan.problem
    return ", ".join([*_parts(plan, settings), f"{share}{room.why}"])


def _gpu(model: Model, found: Card) -> tuple[Room, str, Card]:
    free = found.total if found.free is None else found.free
    room = gpu_room(found.total, free, desktop=False, wsl=is_wsl(), bound=model.memory_bytes)
    given = model.gpu_memory_utilization
    share = room.share if given == "auto" else min(given, room.most_share)
    card = msgspec.structs.replace(found, utilization=share)
    return (
        msgspec.structs.replace(room, usable=min(card.usable, room.most)),
        f"{share:.1%} of the GPU: ",
        card,
    )


def _parts(plan: Plan, settings: Settings) -> list[str]:
    about = "" if settings.context else "about "
    parts = [f"context {about}{plan.likely or 0:,}", f"up to {plan.sequences:,} answers at once"]
    if plan.fits is not None:
        parts.append(f"{min(plan.fits, plan.sequences or 0):.1f} if each takes all of it")
    return parts
