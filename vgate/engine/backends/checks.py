"""Checks of a request's options that every backend makes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vgate.engine.request import RequestError
from vgate.wire.messages import GenerateOptions, ModelInfo, StructuredOutput
from vgate.wire.sampling import SamplingParams

# What vLLM's runner on a GPU has room for in each sequence (vllm/v1/worker/gpu/sample/bad_words.py
# and logit_bias.py). One more would be an error inside a step, which ends the engine.
MAX_BAD_WORDS = 128
MAX_BAD_WORDS_TOKENS = 1024
MAX_TOKENS_NAMED = 1024


def check(sampling: SamplingParams, options: GenerateOptions, model: ModelInfo) -> None:
    """Check that the model can follow a request's options.

    Raises:
        RequestError: It can't follow one, which is the subject.
    """
    _check_logprobs("logprobs", options.logprobs, model)
    _check_logprobs("prompt_logprobs", options.prompt_logprobs, model)
    for name in ("logit_bias", "allowed_token_ids"):
        tokens = getattr(sampling, name) or ()
        if len(tokens) > MAX_TOKENS_NAMED:
            raise _invalid(name, f"{len(tokens)} tokens, the maximum is {MAX_TOKENS_NAMED}")
        _check_tokens(name, tokens, model)
    if options.bad_words:
        _check_bad_words(options.bad_words, model)
    if options.structured is not None:
        _check_structured(options.structured, sampling)


def unknown_adapter(name: str, known: Iterable[str]) -> RequestError:
    """Return the error for an adapter that is not loaded."""
    names = ", ".join(f"`{other}`" for other in known) or "none"
    reason = f"there is no LoRA adapter `{name}`; loaded: {names}"
    return RequestError("model_not_found", reason, "adapter")


def _invalid(subject: str, reason: str) -> RequestError:
    return RequestError("invalid_value", reason, subject)


def _check_logprobs(name: str, count: int | None, model: ModelInfo) -> None:
    if (count or 0) > model.max_logprobs:
        raise _invalid(name, f"must be at most {model.max_logprobs}, got {count}")


def _check_tokens(name: str, tokens: Iterable[int], model: ModelInfo) -> None:
    beyond = next((token for token in tokens if token >= model.vocab_size), None)
    if beyond is not None:
        raise _invalid(name, f"token {beyond} is not in the vocabulary of {model.vocab_size}")


def _check_bad_words(bad_words: list[list[int]], model: ModelInfo) -> None:
    if not all(bad_words):
        raise _invalid("bad_words", "an entry has no tokens")
    if len(bad_words) > MAX_BAD_WORDS:
        raise _invalid("bad_words", f"{len(bad_words)} entries, the maximum is {MAX_BAD_WORDS}")
    if (tokens := sum(map(len, bad_words))) > MAX_BAD_WORDS_TOKENS:
        raise _invalid("bad_words", f"{tokens} tokens, the maximum is {MAX_BAD_WORDS_TOKENS}")
    for word in bad_words:
        _check_tokens("bad_words", word, model)


def _check_structured(structured: StructuredOutput, sampling: SamplingParams) -> None:
    if sampling.ignore_eos:
        # vLLM would continue with any text after the constraint is complete.
        raise _invalid("ignore_eos", "can't be combined with structured output")
    if isinstance(structured.value, list) != (structured.kind == "choice"):
        wanted = "a list of strings" if structured.kind == "choice" else "a string"
        raise _invalid("constraint", f"must be {wanted}")
    if structured.kind == "choice" and not structured.value:
        raise _invalid("constraint", "needs at least one choice")
