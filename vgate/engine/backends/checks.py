"""What every backend refuses of a request's options, in the same words. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vgate.errors import InvalidValueError, ModelNotFoundError
from vgate.wire.messages import GenerateOptions, ModelInfo, StructuredOutput
from vgate.wire.sampling import SamplingParams

# What vLLM's runner on a GPU has room for in each sequence (vllm/v1/worker/gpu/sample/bad_words.py
# and logit_bias.py). One more would be an error inside a step, and the end of the engine.
MAX_BAD_WORDS = 128
MAX_BAD_WORDS_TOKENS = 1024
MAX_TOKENS_NAMED = 1024


def check(sampling: SamplingParams, options: GenerateOptions, model: ModelInfo) -> None:
    """See that the options are possible with the model.

    Raises:
        InvalidRequestError: One is not; it is named.
    """
    _check_logprobs("logprobs", options.logprobs, model)
    _check_logprobs("prompt_logprobs", options.prompt_logprobs, model)
    for name in ("logit_bias", "allowed_token_ids"):
        tokens = getattr(sampling, name) or ()
        if len(tokens) > MAX_TOKENS_NAMED:
            message = f"`{name}` names {len(tokens)} tokens, the most is {MAX_TOKENS_NAMED}"
            raise InvalidValueError(message, param=name)
        _check_tokens(name, tokens, model)
    if options.bad_words:
        _check_bad_words(options.bad_words, model)
    if options.structured is not None:
        _check_structured(options.structured, sampling)


def unknown_adapter(name: str, known: Iterable[str]) -> ModelNotFoundError:
    """Return what to raise for an adapter that there isn't."""
    names = ", ".join(f"`{other}`" for other in known) or "none"
    return ModelNotFoundError(
        f"there is no LoRA adapter `{name}`; there are: {names}", param="model"
    )


def _check_logprobs(name: str, count: int | None, model: ModelInfo) -> None:
    if (count or 0) > model.max_logprobs:
        message = f"`{name}` must be at most {model.max_logprobs}, got {count}"
        raise InvalidValueError(message, param=name)


def _check_tokens(name: str, tokens: Iterable[int], model: ModelInfo) -> None:
    beyond = next((token for token in tokens if token >= model.vocab_size), None)
    if beyond is not None:
        last = model.vocab_size - 1
        message = f"`{name}` has token {beyond}, the vocabulary ends at {last}"
        raise InvalidValueError(message, param=name)


def _check_bad_words(bad_words: list[list[int]], model: ModelInfo) -> None:
    problem = None
    if not all(bad_words):
        problem = "has an entry without tokens"
    elif len(bad_words) > MAX_BAD_WORDS:
        problem = f"has {len(bad_words)} entries, the most is {MAX_BAD_WORDS}"
    elif (tokens := sum(map(len, bad_words))) > MAX_BAD_WORDS_TOKENS:
        problem = f"has {tokens} tokens, the most is {MAX_BAD_WORDS_TOKENS}"
    if problem:
        message = f"`bad_words` {problem}"
        raise InvalidValueError(message, param="bad_words")
    for word in bad_words:
        _check_tokens("bad_words", word, model)


def _check_structured(structured: StructuredOutput, sampling: SamplingParams) -> None:
    param = structured.field
    if sampling.ignore_eos:
        # vLLM would go on with any text after the form is complete.
        message = f"`ignore_eos` can't be had together with `{param}`"
        raise InvalidValueError(message, param="ignore_eos")
    if isinstance(structured.value, list) != (structured.kind == "choice"):
        wanted = "a list of texts" if structured.kind == "choice" else "text"
        message = f"`{param}` takes {wanted}"
        raise InvalidValueError(message, param=param)
    if structured.kind == "choice" and not structured.value:
        message = f"`{param}` needs at least one text"
        raise InvalidValueError(message, param=param)
