"""Checks of a request's options that every backend makes. Pure."""

from collections.abc import Collection, Iterable
from itertools import chain

from vgate.engine.request import RequestError
from vgate.wire.messages import ModelInfo
from vgate.wire.parameters import GenerateOptions, SamplingParams, StructuredOutput

# What vLLM's runner on a GPU has room for in each sequence (vllm/v1/worker/gpu/sample/bad_words.py
# and logit_bias.py). One more would be an error inside a step, which ends the engine.
MAX_BAD_WORDS = 128
MAX_BAD_WORDS_TOKENS = 1024
MAX_TOKENS_NAMED = 1024
# OpenAI's most, and what more may take of a request: each value takes up to 80 bytes here, and as
# much in the frontend.
_USUAL_LOGPROBS = 20
MAX_LOGPROB_VALUES = 2**22


def check(
    sampling: SamplingParams, options: GenerateOptions, model: ModelInfo, prompt_tokens: int = 0
) -> None:
    """Raise RequestError if the model can't follow one of a request's options, the subject."""
    tokens = {"logprobs": sampling.max_tokens or 0, "prompt_logprobs": prompt_tokens}
    for name, places in tokens.items():
        count = getattr(options, name) or 0
        if count > model.max_logprobs:
            raise _invalid(name, f"must be at most {model.max_logprobs}, got {count}")
        if count > _USUAL_LOGPROBS and count * places > MAX_LOGPROB_VALUES:
            most = max(_USUAL_LOGPROBS, MAX_LOGPROB_VALUES // places)
            raise _invalid(name, f"must be at most {most} for {places} tokens, got {count}")
    for name in ("logit_bias", "allowed_token_ids"):
        if tokens := getattr(sampling, name):
            _check_tokens(name, tokens, model, MAX_TOKENS_NAMED)
    if words := options.bad_words:
        if not all(words):
            raise _invalid("bad_words", "an entry has no tokens")
        if len(words) > MAX_BAD_WORDS:
            raise _invalid("bad_words", f"{len(words)} entries, the maximum is {MAX_BAD_WORDS}")
        _check_tokens("bad_words", [*chain(*words)], model, MAX_BAD_WORDS_TOKENS)
    if options.structured is not None:
        _check_structured(options.structured, sampling)


def unknown_adapter(name: str, known: Iterable[str]) -> RequestError:
    """Return the error for an adapter that is not loaded."""
    names = ", ".join(f"`{other}`" for other in known) or "none"
    reason = f"there is no LoRA adapter `{name}`; loaded: {names}"
    return RequestError("model_not_found", reason, "adapter")


def _invalid(subject: str, reason: str) -> RequestError:
    return RequestError("invalid_value", reason, subject)


def _check_tokens(name: str, tokens: Collection[int], model: ModelInfo, maximum: int) -> None:
    if len(tokens) > maximum:
        raise _invalid(name, f"{len(tokens)} tokens, the maximum is {maximum}")
    beyond = next((token for token in tokens if token >= model.vocab_size), None)
    if beyond is not None:
        raise _invalid(name, f"token {beyond} is not in the vocabulary of {model.vocab_size}")


def _check_structured(structured: StructuredOutput, sampling: SamplingParams) -> None:
    if sampling.ignore_eos:
        # vLLM would continue with any text after the constraint is complete.
        raise _invalid("ignore_eos", "can't be combined with structured output")
    if isinstance(structured.value, list) != (structured.kind == "choice"):
        wanted = "a list of strings" if structured.kind == "choice" else "a string"
        raise _invalid("constraint", f"must be {wanted}")
    if structured.kind == "choice" and not structured.value:
        raise _invalid("constraint", "needs at least one choice")
