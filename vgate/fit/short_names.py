"""What a short name such as "qwen3:8b" stands for on this machine, and why, in words."""

import os

import msgspec

from vgate.config.model import Model
from vgate.config.models import catalogue
from vgate.config.models.catalogue import Entry, Form, Variant
from vgate.config.models.names import cached_snapshot
from vgate.fit.choice import ANSWERS, Choice, Fit, choose
from vgate.fit.errors import FitError
from vgate.fit.gpu import GIB, USUAL_SHARE, Card
from vgate.fit.hub import hub_token
from vgate.fit.nvidia import cards

_GB = 1e9
PROCESSOR = "the CPU"
# What a processor computes at a pace that somebody wants to read.
_MOST_WITHOUT_GPU = 6 * GIB


def card_here(share: float | str = "auto", vram: float | None = None) -> Card:
    """Return this machine's GPU, or one with `vram` bytes; without one, a part of its memory.

    `share` is `model.gpu_memory_utilization`.
    """
    utilization = share if isinstance(share, float) else USUAL_SHARE
    if vram is not None:
        return Card(int(vram), utilization)
    if found := cards(utilization):
        return found[0]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = min(memory // 2, _MOST_WITHOUT_GPU)
    return Card(usable, 1.0, fp8=False, bfloat16=False, name=PROCESSOR)


def card_for(model: Model) -> Card:
    """Return what a model is configured to have: GPUs together, or what it may take of memory."""
    card = card_here(model.gpu_memory_utilization)
    if model.memory_bytes is not None:
        return msgspec.structs.replace(card, total=model.memory_bytes, utilization=1.0)
    gpus = model.tensor_parallel_size * model.pipeline_parallel_size
    more = model.weights_offload_gib * GIB / card.utilization
    return msgspec.structs.replace(card, total=int(card.total * gpus + more))


def look_up(name: str, card: Card, form: Form | None = None) -> tuple[Entry, Choice] | None:
    """Return the model that a short name means and how it fits; None if it is no short name."""
    found = catalogue.entry(name)
    return None if found is None else (found, choice_of(found, card, form))


def choice_of(found: Entry, card: Card, form: Form | None = None) -> Choice:
    """Return how a model fits: versions that are here first, those that can't be had last."""
    here = [one.repository for one in found.variants if is_here(one)]
    if not hub_token():
        variants = sorted(found.variants, key=lambda one: one.gated and one.repository not in here)
        found = msgspec.structs.replace(found, variants=variants)
    return choose(found, card, form, here)


def is_here(variant: Variant) -> bool:
    """Whether a version is downloaded."""
    snapshot = cached_snapshot(variant.repository, None)
    return snapshot is not None and (snapshot / "config.json").exists()


def why_not(name: str, choice: Choice, card: Card) -> FitError:
    """Return that no version of a model fits, with numbers."""
    if not choice.all:
        return FitError(f"no version of {name} that the catalogue has runs on {where(card)}")
    least = min(choice.all, key=lambda one: one.variant.bytes)
    return FitError(
        f"{name} does not fit on {where(card)}: its smallest version, {described(least.variant)}, "
        "leaves no room for an answer. `vgate models catalogue` shows what fits"
    )


def why(choice: Choice) -> list[str]:
    """Return in lines why a version was chosen."""
    best = choice.best
    if best is None:
        return []
    lines = [f"{described(best.variant)}: {room(best)}"]
    more = [one for one in choice.all if one.variant.bytes > best.variant.bytes]
    gated = ", but its licence has to be accepted"
    lines += [f"{described(one.variant)}: {room(one)}{gated * one.variant.gated}" for one in more]
    return lines


def described(variant: Variant) -> str:
    """Return such as "Qwen/Qwen3-8B-AWQ (AWQ, 4 bit, 6.1 GB)"."""
    return f"{variant.repository} ({variant.kind}, {variant.bytes / _GB:.1f} GB)"


def room(fit: Fit) -> str:
    """Return what a version leaves room for."""
    if not fit.serves:
        missing = f" by {fit.missing / GIB:.1f} GiB" if fit.missing else ""
        return f"does not fit{missing}"
    if fit.answers == ANSWERS:
        return f"{ANSWERS} answers of {fit.context:,} tokens fit at once"
    return f"one answer of {fit.context:,} tokens fits"


def where(card: Card) -> str:
    """Return the name and the size of a card."""
    name = card.name or "a GPU"
    return f"{name} ({card.total / GIB:.1f} GiB)"


def repository(name: str, card: Card) -> str:
    """Return the name on the Hub that a short name means on a card; another name as it is.

    The version is the one that fits, or the smallest if none does.
    """
    found = look_up(name, card)
    if found is None:
        return name
    entry, choice = found
    if choice.best is not None:
        return choice.best.variant.repository
    return min(entry.variants, key=lambda one: one.bytes).repository


def resolved(model: Model) -> Model:
    """Return a model with its name on the Hub in place of its short name, which it is served as."""
    found = catalogue.entry(model.model_id)
    if found is None:
        return model
    return msgspec.structs.replace(
        model,
        model_id=repository(model.model_id, card_for(model)),
        served_model_name=model.served_model_name or model.model_id,
        task=found.task if model.task == "auto" else model.task,
    )


def problem(model: Model) -> str | None:
    """Return why a model that is configured by its short name can't be served by this GPU.

    None also where that can't be told: without a GPU, or with arguments that save memory.
    """
    if catalogue.entry(model.model_id) is None or model.engine_args or model.quantization:
        return None
    card = card_for(model)
    found = look_up(model.model_id, card)
    if found is None or found[1].best is not None or card.name == PROCESSOR:
        return None
    return f"model.model_id: {why_not(model.model_id, found[1], card)}"
