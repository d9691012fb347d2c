"""Which version of a model fits a card, by the figures of the catalogue; nothing is fetched."""

from collections.abc import Iterable

import msgspec

from vgate.config.models.catalogue import Entry, Form, Variant, catalogue
from vgate.fit.checkpoint import Checkpoint, Tensor
from vgate.fit.estimate import Estimate, Settings, estimate
from vgate.fit.gpu import GIB, Card

# What a choice has to have room for, if the model's own context is as long.
ANSWERS, CONTEXT = 2, 8192
_FEWEST_TOKENS = 2048
# As many as run at once on a small card; vLLM's own 256 would need room that nobody uses.
_SEQUENCES = 16
# What an encoder takes beside its weights.
_ENCODER_BYTES = GIB // 2


class Fit(msgspec.Struct, frozen=True):
    """How a version of a model fits.

    Attributes:
        answers: How many answers at once were asked for: `ANSWERS`, or 1 if so many don't fit.
        context: The longest context that each of them can have; 0 if not one fits.
        missing: Bytes that are missing before any KV cache.
    """

    variant: Variant
    answers: int
    context: int
    missing: int = 0

    @property
    def serves(self) -> bool:
        """Whether it fits at all."""
        return self.context > 0


class Choice(msgspec.Struct, frozen=True):
    """The version that fits best, None if none does, and how each fits."""

    best: Fit | None
    all: list[Fit]


def choose(
    found: Entry, card: Card, form: Form | None = None, cached: Iterable[str] = ()
) -> Choice:
    """Choose a version of a model.

    It is the one with the most bits that leaves room for `ANSWERS` of `CONTEXT` tokens, and if none
    does, the one with the longest context. A version with that room that is downloaded already, so
    that its repository is in `cached`, goes first. If a `form` is given, no other may be chosen.
    """
    usable = [one for one in found.variants if _runs(one, card) and form in {None, one.form}]
    fits = [how_it_fits(found, one, card) for one in usable]
    wanted = min(CONTEXT, int(found.config["max_position_embeddings"]))
    roomy = [one for one in fits if one.answers == ANSWERS and one.context >= wanted]
    there = set(cached)
    here = [one for one in roomy if one.variant.repository in there]
    best = next(iter([*here, *roomy]), None)
    if best is None and any(one.serves for one in fits):
        best = max(fits, key=lambda one: (one.answers, one.context))
    return Choice(best, fits)


def how_it_fits(found: Entry, variant: Variant, card: Card) -> Fit:
    """Return how a version of a model fits a card."""
    own = int(found.config["max_position_embeddings"])
    if found.task == "embed":
        missing = variant.bytes + _ENCODER_BYTES - card.usable
        return Fit(variant, ANSWERS, 0 if missing > 0 else own, max(0, missing))
    estimated = _estimated(found, variant, card)
    for answers in (ANSWERS, 1):
        if (longest := estimated.longest(answers)) >= min(_FEWEST_TOKENS, own):
            return Fit(variant, answers, longest)
    return Fit(variant, 1, 0, max(0, -estimated.kv_memory))


def proposed(card: Card) -> tuple[str, Fit] | None:
    """Return the best model that has room on a card, by its short name; None if none has."""
    ranked = sorted(catalogue().models.items(), key=lambda item: -item[1].rank)
    for name, found in ranked:
        best = choose(found, card).best if found.rank else None
        if best is not None and best.answers == ANSWERS and best.context >= CONTEXT:
            return name, best
    return None


def _runs(variant: Variant, card: Card) -> bool:
    """Whether vLLM has kernels: those of 8 bits, and of 4 bit floats, need Ampere or newer."""
    return card.bfloat16 or not (variant.form == "fp8" or variant.kind.startswith("MXFP4"))


def _estimated(found: Entry, variant: Variant, card: Card) -> Estimate:
    """Return `vgate fit`'s figures, with the weights in one piece."""
    parts = {"vision_tower.weights": found.tower_bytes} if found.tower_bytes else {}
    parts["weights"] = max(variant.bytes, variant.loaded_bytes) - found.tower_bytes
    tensors = {name: Tensor("U8", [size]) for name, size in parts.items()}
    checkpoint = Checkpoint(variant.repository, found.config, tensors)
    return estimate(checkpoint, card, Settings(sequences=_SEQUENCES))
