"""From a completion request to the neutral one."""

from __future__ import annotations

from vgate.frontend.apis.openai.common import generation_from
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.pipeline.generation import Generation, Prompts


def generation_of(request: CompletionRequest) -> Generation:
    """Return what a checked completion request asks to be generated.

    Raises:
        InvalidRequestError: Its output format can't be followed.
    """
    prompts = Prompts(
        prompts=request.prompts,
        add_special_tokens=request.add_special_tokens is not False,
        only=not request.token_limit,
    )
    prompt_logprobs = request.prompt_logprobs
    if prompt_logprobs is None and request.echo:
        # The log probabilities of an echo include the prompt's.
        prompt_logprobs = request.logprobs
    return generation_from(
        request,
        prompts,
        max_tokens=request.token_limit or None,
        choices=request.choices,
        constraint=constraint_of(request.response_format, request.structured_outputs),
        logprobs=request.logprobs,
        prompt_logprobs=prompt_logprobs,
        keep_token_ids=bool(request.return_token_ids),
        truncation=request.truncation,
    )
