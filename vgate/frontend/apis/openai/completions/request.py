"""Completion requests as OpenAI defines them, with vLLM's additions; decoded and checked."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import RefusedFields
from vgate.frontend.apis.openai.common import Count, GenerationRequest, check_common
from vgate.wire.sampling import TokenId

# vLLM's bound on prompts; here it is on the answers to all of them.
MAX_ANSWERS = 1024
# OpenAI's default (API reference, "Create completion").
DEFAULT_MAX_TOKENS = 16

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[TokenId], Meta(min_length=1)]
_List = Annotated[list[_Text | TokenId | _Tokens], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/completions``."""

    prompt: _Text | _List
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Count | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]  # type: ignore[list-item]
        return prompt  # type: ignore[return-value]

    @property
    def token_limit(self) -> int:
        """Most tokens of an answer; 0 if only the prompt is wanted back."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens


_decoder = msgspec.json.Decoder(CompletionRequest)
_refused = RefusedFields(CompletionRequest)


def decode_completion(body: bytes) -> CompletionRequest:
    """Decode and check a completion request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_decoder, body)
    check_completion(request)
    return request


def check_completion(request: CompletionRequest) -> None:
    """Check what the types can't say of a completion request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    _refused.check(request)
    check_common(request)
    if request.max_tokens == 0 and not request.echo:
        message = "`max_tokens` must be at least 1 unless `echo` is true, got 0"
        raise InvalidValueError(message, param="max_tokens")
    if isinstance(request.prompt, str):
        return
    if len({type(item) for item in request.prompt}) != 1:
        message = (
            "`prompt` must be a list of texts, of token ids or of lists of token ids, not a mix"
        )
        raise InvalidValueError(message, param="prompt")
    answers = len(request.prompts) * request.choices
    if answers > MAX_ANSWERS:
        message = f"`prompt` and `n` ask for {answers} answers, at most {MAX_ANSWERS} are allowed"
        raise InvalidValueError(message, param="prompt")
