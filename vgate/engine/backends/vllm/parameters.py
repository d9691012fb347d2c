"""From our requests to vLLM's sampling parameters, and from vLLM's refusals to ours."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from vllm import PoolingParams
from vllm import SamplingParams as VLLMSamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from vgate.engine.backends.checks import unknown_adapter
from vgate.engine.backends.vllm.exact_grammars import KINDS
from vgate.engine.backends.vllm.schemas import ignored_part
from vgate.engine.request import Request, RequestError
from vgate.wire.parameters import GenerateOptions, SamplingParams, StructuredOutput

# Options that vLLM doesn't take under their names; all others are passed on.
_TRANSLATED = {"bad_words", "structured", "adapter", "cache_salt"}
_OPTIONS = [name for name in GenerateOptions.__struct_fields__ if name not in _TRANSLATED]
# vLLM takes -1 for "no seed" (vllm/sampling_params.py, __post_init__), but for our clients it is a
# valid seed. Any fixed number can replace it: two seeds may give the same sample.
_VLLM_NO_SEED = -1
_SEED_INSTEAD = 2**63 - 1
# Time and source line before xgrammar's messages.
_XGRAMMAR_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


class Parameters:
    """Translates our requests' parameters to vLLM's; raises RequestError where it can't.

    Args:
        vllm_config: vLLM's configuration.
        adapters: The LoRA adapters that are loaded.
        exact: Whether schemas and regular expressions are followed without vLLM.
    """

    # vLLM's errors that `refusal` translates.
    refusals = (VLLMClientError, ValueError)

    def __init__(self, vllm_config: Any, adapters: Iterable[Any], *, exact: bool) -> None:
        settings = vllm_config.structured_outputs_config
        self._exact = exact
        self._compact: bool = settings.disable_any_whitespace
        self._ignores_keywords = settings.backend == "xgrammar"
        self._adapters = {adapter.lora_name: adapter for adapter in adapters}

    def for_request(self, request: Request) -> Any:
        """Return vLLM's parameters for a request."""
        sampling, options, done = request.sampling, request.options, len(request.continued)
        if (how := request.classify) is not None:
            # vLLM's name for where the second text's token types begin (pooling/scoring).
            types = {"compressed_token_type_ids": how.second_from}
            return PoolingParams(
                task="classify",
                use_activation=None if how.activation else False,
                extra_kwargs=None if how.second_from is None else types,
            )
        if sampling is None:
            return PoolingParams(task="embed", dimensions=request.dimensions)
        if done:
            # For vLLM, the tokens that another engine generated are part of the prompt. The
            # prompt's log probabilities were sent with the first of them.
            min_tokens = max(0, (sampling.min_tokens or 0) - done)
            sampling = msgspec.structs.replace(
                sampling, max_tokens=request.max_tokens - done, min_tokens=min_tokens
            )
            options = msgspec.structs.replace(options, prompt_logprobs=None)
        return self.generation(sampling, options)

    def adapter(self, name: str) -> Any:
        """Return vLLM's LoRARequest for an adapter; None for the model itself."""
        if not name:
            return None
        adapter = self._adapters.get(name)
        if adapter is None:
            raise unknown_adapter(name, self._adapters)
        return adapter

    def generation(self, sampling: SamplingParams, options: GenerateOptions) -> Any:
        """Translate parameters of a generation."""
        given = sampling.given()
        for name in _OPTIONS:
            given[name] = getattr(options, name)
        if sampling.seed == _VLLM_NO_SEED:
            given["seed"] = _SEED_INSTEAD
        params = VLLMSamplingParams(
            **given,
            structured_outputs=self._structured(options.structured),
            # Frontends detokenize and match stop strings, so they need every new token.
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
        if options.bad_words:
            # vLLM's public field takes text, which it would tokenize into this one.
            params._bad_words_token_ids = options.bad_words  # noqa: SLF001
        return params

    def _structured(self, structured: StructuredOutput | None) -> Any:
        if structured is None:
            return None
        if structured.disable_any_whitespace and not self._compact:
            reason = "compact JSON is switched off by this server's configuration"
            raise RequestError("unsupported_parameter", reason, "constraint")
        if self._exact and structured.kind in KINDS:
            # A stand-in: vLLM never compiles it, see `Constraints`.
            return StructuredOutputsParams(json_object=True)
        if self._ignores_keywords and structured.kind in {"json", "structural_tag"}:
            _check_schema(structured)
        value = True if structured.kind == "json_object" else structured.value
        return StructuredOutputsParams(**{structured.kind: value})

    @staticmethod
    def refusal(error: Exception, request: Request) -> RequestError:
        """Turn vLLM's refusal of a request into ours."""
        # str() of vLLM's own adds the parameter and the whole value.
        reason = str(error.args[0]) if error.args else str(error)
        if "longer than the maximum model length" in reason or "max_model_len" in reason:
            return RequestError("context_length_exceeded", reason, "prompt")
        subject = getattr(error, "parameter", None)
        if subject is None and request.options.structured is not None:
            subject, reason = "constraint", _XGRAMMAR_PREFIX.sub("", reason).strip()
        elif subject is None and request.dimensions is not None:
            subject = "dimensions"
        return RequestError("invalid_value", reason, subject)


def _check_schema(structured: StructuredOutput) -> None:
    """Check that xgrammar will ignore no part of a schema; vLLM refuses what is no schema."""
    try:
        schema = msgspec.json.decode(str(structured.value))
    except (ValueError, RecursionError):
        return
    if (part := ignored_part(schema)) is not None:
        reason = f"a schema's {part} is not supported"
        raise RequestError("unsupported_parameter", reason, "constraint")
