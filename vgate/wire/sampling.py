"""The one definition of every sampling parameter, with its bounds.

The API's request structs inherit `SamplingParams`, so a parameter is accepted, checked, sent and
mapped by having one field here (and one line in the vLLM backend where vLLM's name differs).

``None`` means "not given": the model's own default, which `SamplingParams.over` fills in before the
request crosses the wire.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

# The largest seed that vLLM takes (a signed 64-bit integer).
_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1

# Counts and token ids: what fits the engine's tensors, and msgpack.
_INT32_MAX = 2**31 - 1

TokenId = Annotated[int, Meta(ge=0, le=_INT32_MAX)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=_INT32_MAX)]


class SamplingParams(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How tokens are chosen and when a generation ends.

    The bounds of the first four and of the penalties are OpenAI's (API reference, "Create chat
    completion"), the others vLLM's (``vllm/sampling_params.py``).
    """

    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=_SEED_MIN, le=_SEED_MAX)] | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=_INT32_MAX)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1)] | None = None

    def plain(self, *, max_tokens: int | None) -> SamplingParams:
        """Return plain SamplingParams of these, with another `max_tokens`."""
        given = self._given()
        given["max_tokens"] = max_tokens
        return SamplingParams(**given)

    def over(self, defaults: SamplingParams, *, max_tokens: int | None = None) -> SamplingParams:
        """Return plain SamplingParams with `defaults` wherever a parameter was not given.

        Args:
            defaults: Plain SamplingParams.
            max_tokens: Comes before both, if it is given.
        """
        given = self._given()
        if max_tokens is not None:
            given["max_tokens"] = max_tokens
        return msgspec.structs.replace(defaults, **given)

    def _given(self) -> dict[str, Any]:
        values = zip(FIELDS, _values(self), strict=True)
        return {name: value for name, value in values if value is not None}


def nth_seed(seed: int, index: int) -> int:
    """Return the seed of a request's choice `index`; past the largest it starts over."""
    return (seed + index - _SEED_MIN) % (_SEED_MAX - _SEED_MIN + 1) + _SEED_MIN


FIELDS = SamplingParams.__struct_fields__
_values = attrgetter(*FIELDS)

# What is used where neither the request nor the model's generation_config.json says anything.
DEFAULTS = SamplingParams(
    temperature=1.0,
    top_p=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    min_tokens=0,
    ignore_eos=False,
)
