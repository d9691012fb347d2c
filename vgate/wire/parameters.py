"""What a request asks of the engine: sampling parameters, with their bounds, options, constraints.

The API's request structs inherit `SamplingParams`, so a parameter is accepted, checked and sent by
having a field here (and a line in the vLLM backend where vLLM's name differs).
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

# What a model is for.
Task = Literal["generate", "embed", "classify"]

# The largest seed that vLLM takes (a signed 64-bit integer).
_SEED_MIN, _SEED_MAX = -(2**63), 2**63 - 1

# Counts and token ids: what fits the engine's tensors, and msgpack.
_INT32_MAX = 2**31 - 1
# An answer is as long as there is room for, whatever is asked for; but msgpack must hold it.
MAX_ASKED_TOKENS = 2**63 - 1

# Of a list of token ids.
MOST_TOKEN_IDS = 1024

TokenId = Annotated[int, Meta(ge=0, le=_INT32_MAX)]
Temperature = Annotated[float, Meta(ge=0)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=_INT32_MAX)]
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_ASKED_TOKENS)]
# OpenAI's levels are none, minimal, low, medium, high, xhigh and max; models have others.
ReasoningEffort = Annotated[str, Meta(min_length=1, max_length=32)]
# The length of an embedding.
Dimensions = Annotated[int, Meta(ge=1, le=_INT32_MAX)]


class SamplingParams(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How tokens are chosen and when a generation ends.

    None means "not given": `over` fills in the model's default before a request crosses the wire.
    The bounds are vLLM's (``vllm/sampling_params.py``).
    """

    # Parameters whose effect on the next token does not depend on where the prompt ends. A sequence
    # with any other can't be continued by another engine. The others are:
    # - seed: the generator's state is lost
    # - presence_penalty, frequency_penalty: they count generated tokens only
    #   (vllm/v1/sample/ops/penalties.py; repetition_penalty counts the prompt as well)
    # The limits of tokens count those of all engines: see `Generate.generated`.
    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {
            *("temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
            *("max_tokens", "min_tokens", "stop_token_ids", "ignore_eos"),
            *("logit_bias", "allowed_token_ids"),
        }
    )

    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=_SEED_MIN, le=_SEED_MAX)] | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    max_tokens: MaxTokens | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=_INT32_MAX)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MOST_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    logit_bias: Annotated[dict[TokenId, float], Meta(max_length=1024)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1, max_length=1024)] | None = None

    @property
    def is_deterministic(self) -> bool:
        """Whether the same request always gets the same tokens."""
        return self.temperature == 0 or self.seed is not None

    def plain(self, *, max_tokens: int | None) -> "SamplingParams":
        """Return plain SamplingParams of these, with another `max_tokens`."""
        # Completions' 0, for an echo alone, and -1, for no limit, are out of bounds here.
        unbound = self.max_tokens in {0, -1}
        given = msgspec.structs.replace(self, max_tokens=None) if unbound else self
        plain = msgspec.convert(given, SamplingParams, from_attributes=True)
        # Nobody else has it yet.
        msgspec.structs.force_setattr(plain, "max_tokens", max_tokens)
        return plain

    def over(
        self, defaults: "SamplingParams", *, max_tokens: int | None = None
    ) -> "SamplingParams":
        """Return `defaults` with the parameters given here. Both are plain.

        `max_tokens`, if given, comes before both.
        """
        given = self.given()
        if max_tokens is not None:
            given["max_tokens"] = max_tokens
        return msgspec.structs.replace(defaults, **given)

    def given(self) -> dict[str, Any]:
        """Return the parameters that are not None, of plain SamplingParams."""
        given: dict[str, Any] = msgspec.to_builtins(self)  # which omits defaults
        return given


def nth_seed(seed: int, index: int) -> int:
    """Return the seed of a request's choice `index`; after the largest it wraps around."""
    return (seed + index - _SEED_MIN) % (_SEED_MAX - _SEED_MIN + 1) + _SEED_MIN


# Used where neither the request nor the model's generation_config.json has a value.
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


class StructuredOutput(msgspec.Struct, frozen=True, array_like=True):
    """A constraint that the generated text must satisfy.

    Attributes:
        kind: What `value` is, as in vLLM's StructuredOutputsParams.
        value: A JSON schema as text, a regular expression, the choices, a grammar (EBNF) or a
            structural tag (JSON as text); "" for any JSON object.
        disable_any_whitespace: For JSON: no whitespace between its parts.
        after_reasoning: The model may reason first; the constraint applies to what follows.
        harmony: In gpt-oss's format: the schemas of the functions of which the model must call one,
            by name; empty if the constraint is its final message's. None: another format.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]
    value: str | list[str] = ""
    disable_any_whitespace: bool = False
    after_reasoning: bool = False
    harmony: dict[str, str] | None = None


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that reach the engine as the client chose them.

    Attributes:
        logprobs: How many of the most likely tokens to report at each position, in addition to the
            sampled one; None for no log probabilities at all.
        prompt_logprobs: The same for the prompt's tokens.
        cache_salt: Prefix-cache entries are shared only between requests with the same one.
    """

    logprobs: Annotated[int, Meta(ge=0)] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0)] | None = None
    cache_salt: str = ""


class GenerateOptions(ClientOptions, frozen=True, array_like=True):
    """What shapes a sequence, or what is reported about it, beyond the sampling parameters.

    Attributes:
        bad_words: Token sequences that are never generated.
        structured: The constraint on the text.
        adapter: Name of the LoRA adapter; "" for the model itself.
    """

    # As in `SamplingParams`; for bad_words vLLM searches generated tokens only (v1/sample/ops).
    # `prompt_logprobs` come with the first token, and the engine advances `structured`'s grammar.
    RESUMABLE: ClassVar[frozenset[str]] = frozenset(
        {"logprobs", "prompt_logprobs", "structured", "adapter", "cache_salt"}
    )

    bad_words: list[list[TokenId]] = []
    structured: StructuredOutput | None = None
    adapter: str = ""


NO_OPTIONS = GenerateOptions()


class Classify(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How one text, or a pair of texts in one prompt, is classified.

    Attributes:
        second_from: Index of the token with which the second text begins, for models that tell the
            two apart by token types; None for others, and for one text.
        activation: False for the plain outputs of the last layer instead of probabilities.
    """

    second_from: int | None = None
    activation: bool = True


class Classes(msgspec.Struct, frozen=True):
    """What a model classifies into, and how a pair of texts becomes its prompt.

    Attributes:
        labels: The name of each class, if it has one. A model with one class ranks: its only
            output is the score.
        token_types: Whether it tells the two texts apart by token types.
        joined: Its pairs are one text, the second right after the first; otherwise they are put
            together by the tokenizer's template for pairs.
    """

    labels: list[str | None]
    token_types: bool = False
    joined: bool = False
