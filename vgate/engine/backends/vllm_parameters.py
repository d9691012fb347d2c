"""From our requests to vLLM's: sampling parameters, options, and what to say of refusals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from vgate.engine.request import Request
from vgate.errors import (
    ContextLengthExceededError,
    InvalidValueError,
    ModelNotFoundError,
    UnsupportedParameterError,
    VGateError,
)
from vgate.wire.messages import GenerateOptions, StructuredOutput
from vgate.wire.sampling import SamplingParams

# vLLM takes -1 for "no seed" (vllm/sampling_params.py, __post_init__), yet it is a seed like any
# other. Any fixed number will do: two seeds may well give the same sample.
_VLLM_NO_SEED = -1
_SEED_INSTEAD = 2**63 - 1
# What vLLM's runner on a GPU has room for in each sequence (vllm/v1/worker/gpu/sample/bad_words.py
# and logit_bias.py). One more would be an error inside a step, and the end of the engine.
_MAX_BAD_WORDS = 128
_MAX_BAD_WORDS_TOKENS = 1024
_MAX_TOKENS_NAMED = 1024

# Time and source line, with which xgrammar begins what it says.
_XGRAMMAR_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
_PARAM_OF_KIND = {
    "json": "response_format",
    "json_object": "response_format",
    "structural_tag": "response_format",
}


def structured_param(structured: StructuredOutput) -> str:
    """Return the field of the API that a form of the text comes from."""
    return _PARAM_OF_KIND.get(structured.kind, "structured_outputs")


class Parameters:
    """Makes vLLM's parameters of requests.

    Args:
        vllm_config: vLLM's configuration.
        adapters: vLLM's LoRARequests.
    """

    def __init__(self, vllm_config: Any, adapters: Iterable[Any]) -> None:
        from vllm import PoolingParams
        from vllm import SamplingParams as VLLMSamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        self._sampling_params = VLLMSamplingParams
        self._structured_params = StructuredOutputsParams
        self._pooling_params = PoolingParams
        self._output_kind = RequestOutputKind.DELTA
        self._vocab_size: int = vllm_config.model_config.get_vocab_size()
        self._compact: bool = vllm_config.structured_outputs_config.disable_any_whitespace
        self._adapters = {adapter.lora_name: adapter for adapter in adapters}

    def of(self, request: Request) -> Any:
        """Return vLLM's parameters for a request.

        Raises:
            InvalidRequestError: An option is wrong, or can't be had here.
        """
        if request.sampling is None:
            return self._pooling_params(task="embed", dimensions=request.dimensions)
        return self.generation(request.sampling, request.options)

    def adapter(self, name: str) -> Any:
        """Return vLLM's name for an adapter; None for the model itself.

        Raises:
            ModelNotFoundError: There is no such adapter.
        """
        if not name:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            known = ", ".join(f"`{known}`" for known in self._adapters) or "none"
            message = f"there is no LoRA adapter `{name}`; there are: {known}"
            raise ModelNotFoundError(message, param="model")
        return adapter

    def generation(self, sampling: SamplingParams, options: GenerateOptions) -> Any:
        """Map our parameters to vLLM's; the names are the same."""
        given = {
            name: value
            for name, value in msgspec.structs.asdict(sampling).items()
            if value is not None
        }
        if sampling.seed == _VLLM_NO_SEED:
            given["seed"] = _SEED_INSTEAD
        for name in ("logit_bias", "allowed_token_ids"):
            if len(given.get(name, ())) > _MAX_TOKENS_NAMED:
                message = f"`{name}` may name at most {_MAX_TOKENS_NAMED} tokens"
                raise InvalidValueError(message, param=name)
        params = self._sampling_params(
            **given,
            logprobs=options.logprobs,
            prompt_logprobs=options.prompt_logprobs,
            structured_outputs=self._structured(options.structured, sampling),
            # Frontends detokenise and match stop strings; every new token is sent.
            detokenize=False,
            output_kind=self._output_kind,
            skip_clone=True,
        )
        if options.bad_words:
            self._check_bad_words(options.bad_words)
            # vLLM's own field takes text, which it would tokenise into this one.
            params._bad_words_token_ids = options.bad_words  # noqa: SLF001
        return params

    def _check_bad_words(self, bad_words: list[list[int]]) -> None:
        problem = None
        if not all(bad_words):
            problem = "has an entry without tokens"
        elif len(bad_words) > _MAX_BAD_WORDS:
            problem = f"has {len(bad_words)} entries, the most is {_MAX_BAD_WORDS}"
        elif (tokens := sum(map(len, bad_words))) > _MAX_BAD_WORDS_TOKENS:
            problem = f"has {tokens} tokens, the most is {_MAX_BAD_WORDS_TOKENS}"
        elif (largest := max(map(max, bad_words))) >= self._vocab_size:
            problem = f"has token {largest}, the vocabulary ends at {self._vocab_size - 1}"
        if problem:
            message = f"`bad_words` {problem}"
            raise InvalidValueError(message, param="bad_words")

    def _structured(self, structured: StructuredOutput | None, sampling: SamplingParams) -> Any:
        if structured is None:
            return None
        param = structured_param(structured)
        if structured.whitespace_pattern is not None:
            message = "`whitespace_pattern` is not supported by this engine"
            raise UnsupportedParameterError(message, param=param)
        if structured.disable_any_whitespace and not self._compact:
            message = "`disable_any_whitespace` is switched off by this server's configuration"
            raise UnsupportedParameterError(message, param=param)
        if sampling.ignore_eos:
            # vLLM would go on with any text after the form is complete.
            message = f"`ignore_eos` can't be had together with `{param}`"
            raise InvalidValueError(message, param="ignore_eos")
        if isinstance(structured.value, list) != (structured.kind == "choice"):
            wanted = "a list of texts" if structured.kind == "choice" else "text"
            message = f"`{structured.kind}` takes {wanted}"
            raise InvalidValueError(message, param=param)
        value = True if structured.kind == "json_object" else structured.value
        return self._structured_params(**{structured.kind: value})


def refusal(error: Exception, request: Request) -> VGateError:
    """Turn vLLM's refusal of a request into ours."""
    # str() of vLLM's own adds the parameter and the whole value.
    message = str(error.args[0]) if error.args else str(error)
    if "longer than the maximum model length" in message or "max_model_len" in message:
        return ContextLengthExceededError(message, param="messages")
    param = getattr(error, "parameter", None)
    if param is None and (structured := request.options.structured) is not None:
        param = structured_param(structured)
        message = f"`{param}` can't be followed: {_XGRAMMAR_PLACE.sub('', message).strip()}"
    return InvalidValueError(message, param=param)
