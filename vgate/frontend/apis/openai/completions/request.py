"""Completion requests as OpenAI defines them, with vLLM's additions."""

from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import FieldPolicies
from vgate.frontend.apis.openai.common import (
    RENAMED,
    CountOrAll,
    GenerationRequest,
    check_common,
    generation_from,
)
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation, Prompts
from vgate.wire.parameters import MAX_ASKED_TOKENS, TokenId

# vLLM limits the prompts; this limits the answers to all of them.
MAX_ANSWERS = 1024
# Tokens of prompts in several answers to each; to write and send them takes milliseconds.
MAX_REPEATED_TOKENS = 524_288
# OpenAI's default (API reference, "Create completion").
DEFAULT_MAX_TOKENS = 16

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[TokenId], Meta(min_length=1)]
_List = Annotated[list[_Text | TokenId | _Tokens], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/completions``."""

    prompt: _Text | _List
    max_tokens: Annotated[int, Meta(ge=-1, le=MAX_ASKED_TOKENS)] | None = None
    logprobs: bool | CountOrAll | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer, None for no limit; 0 only echoes the prompt."""
        if self.max_tokens == -1:
            return None
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def top_logprobs(self) -> int | None:
        """How many likely tokens to report; clients of the chat API send true and false."""
        return None if self.logprobs is False else self.logprobs and int(self.logprobs)


_decoder = msgspec.json.Decoder(CompletionRequest)
_policies = FieldPolicies(CompletionRequest)


def decode_completion(body: bytes, ignored: Ignored) -> CompletionRequest:
    """Decode and check a completion request; an error has the field at fault."""
    request = decode_request(_decoder, body, ignored, renamed=RENAMED)
    _policies.check(request, ignored)
    check_common(request, request.token_limit, ignored)
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "must be at least 1 unless `echo` is true, got 0")
    if isinstance(request.prompt, str):
        return request
    if len({type(item) for item in request.prompt}) != 1:
        problem = "must be a list of texts, of token ids or of lists of token ids, not a mix"
        raise invalid("prompt", problem)
    answers = len(request.prompts) * (request.n or 1)
    if answers > MAX_ANSWERS:
        problem = f"and `n` ask for {answers} answers, at most {MAX_ANSWERS} are allowed"
        raise invalid("prompt", problem)
    return request


def check_repeated(request: CompletionRequest, prompt_tokens: int) -> None:
    """Raise `InvalidValueError` if a request's answers would repeat too much of its prompts."""
    answers = request.n or 1
    if answers == 1 or not (request.echo or request.return_token_ids):
        return
    if (repeated := answers * prompt_tokens) > MAX_REPEATED_TOKENS:
        problem = (
            f"answers with `echo` or `return_token_ids` would repeat {repeated} tokens of prompts, "
            f"at most {MAX_REPEATED_TOKENS} are allowed"
        )
        raise invalid("n", problem)


def generation_of(request: CompletionRequest) -> Generation:
    """Return the generation that a checked request asks for, or raise if it can't be served."""
    prompts = Prompts(
        prompts=request.prompts,
        add_special_tokens=request.add_special_tokens is not False,
        only=request.token_limit == 0,
    )
    prompt_logprobs = request.prompt_logprobs
    if prompt_logprobs is None and request.echo:
        # The log probabilities of an echo include the prompt's.
        prompt_logprobs = request.top_logprobs
    return msgspec.structs.replace(
        generation_from(request, prompts, max_tokens=request.token_limit or None),
        choices=request.n or 1,
        constraint=constraint_of(request.response_format, request.structured_outputs),
        logprobs=request.top_logprobs,
        prompt_logprobs=prompt_logprobs,
        keep_token_ids=bool(request.return_token_ids),
        truncation=request.truncation,
    )
