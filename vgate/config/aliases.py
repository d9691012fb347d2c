"""Aliases: further names of models, with parameters, a system prompt and users of their own."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from msgspec import Meta

from vgate.config.model import Model
from vgate.config.section import NonEmptyStr, Section
from vgate.keys import ApiKey, KeyName
from vgate.wire.parameters import Dimensions, ReasoningEffort, SamplingParams

_FOR_EMBEDDINGS = frozenset({"dimensions"})


class Parameters(
    SamplingParams, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Parameters of requests, with the bounds that they have there; None: it isn't set."""

    reasoning_effort: ReasoningEffort | None = None
    dimensions: Dimensions | None = None


class Alias(Section, frozen=True):
    """A further name of a model.

    Attributes:
        model: A model's served name, or an adapter's.
        defaults: Count where a request gives nothing, before the model's own.
        locked: Count whatever a request gives. A request may ask for fewer `max_tokens`.
        system_prompt: Comes first in each conversation, before the client's own.
        keys: The names of the API keys, or of their groups, that may use it; None: all that may
            use the model.
    """

    model: NonEmptyStr
    defaults: Parameters = Parameters()
    locked: Parameters = Parameters()
    system_prompt: NonEmptyStr | None = None
    keys: Annotated[list[KeyName], Meta(min_length=1)] | None = None

    def is_for(self, key: ApiKey) -> bool:
        """Whether `keys` has a key or its group."""
        return self.keys is None or key.name in self.keys or key.group in self.keys


def alias_problems(
    aliases: Mapping[str, Alias], models: Iterable[Model], *, has_keys: bool
) -> Iterator[str]:
    """Yield why aliases can't be used with these models; `has_keys`: API keys are required."""
    served = {
        name: model for model in models for name in (*model.served_names, *model.adapter_names)
    }
    for name, alias in aliases.items():
        where = f"`aliases.{name}"
        if name in served:
            yield f"{where}`: a model or an adapter is served under this name; take another one"
        if alias.keys is not None and not has_keys:
            yield f"{where}.keys` needs API keys; set security.enabled"
        if alias.model in served:
            yield from _unfit(alias, served[alias.model], where)
        elif alias.model in aliases:
            yield f"{where}.model`: `{alias.model}` is an alias; name its model"
        else:
            close = difflib.get_close_matches(alias.model, served, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"there is {', '.join(served)}"
            yield f"{where}.model`: no model has the served name `{alias.model}`; {hint}"


def _unfit(alias: Alias, model: Model, where: str) -> Iterator[str]:
    least = alias.locked.min_tokens or alias.defaults.min_tokens or 0
    most = alias.locked.max_tokens or alias.defaults.max_tokens
    if most is not None and least > most:
        yield f"{where}`: min_tokens must be at most its max_tokens, {most}, got {least}"
    if model.task == "auto":  # only its engine will know
        return
    does = {"generate": "generates", "embed": "embeds", "classify": "classifies"}[model.task]
    for section in ("defaults", "locked"):
        for name in getattr(alias, section).given():
            if model.task == "classify" or (name in _FOR_EMBEDDINGS) != (model.task == "embed"):
                yield f"{where}.{section}.{name}` has no meaning: `{alias.model}` {does} text"
    if model.task != "generate" and alias.system_prompt is not None:
        yield f"{where}.system_prompt` has no meaning: `{alias.model}` {does} text"
