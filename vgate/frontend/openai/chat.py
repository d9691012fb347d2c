"""Chat completion responses and stream chunks.

A stream's chunks differ in a text or a word only, so a frame is put together from encoded parts
instead of encoding an object per token.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.errors import VGateError
from vgate.frontend.openai.errors import error_body
from vgate.wire.messages import FinishReason

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How the prompt was processed."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request; with several choices, of all of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int) -> Usage:
        """Count."""
        return cls(prompt, completion, prompt + completion, PromptTokensDetails(cached))


class Message(msgspec.Struct, frozen=True):
    """An assistant's message."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    """The response of a request that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    service_tier: None = None
    system_fingerprint: None = None


class ChunkFrames:
    """Builds the server-sent events of one stream.

    Args:
        completion_id, created, model: The same in all chunks.
        with_usage: Whether chunks carry ``usage``: null in all but the last, as OpenAI sends it.
    """

    __slots__ = ("_head", "_tail", "_usage")

    def __init__(self, completion_id: str, created: int, model: str, *, with_usage: bool) -> None:
        head = (
            b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,'
            b'"system_fingerprint":null,"choices":['
        )
        self._head = head % (_encode(completion_id), created, _encode(model))
        self._usage = b',"usage":' if with_usage else b""
        null = b"null" if with_usage else b""
        self._tail = b"]" + self._usage + null + b"}\n\n"

    def prefix(self, index: int) -> bytes:
        """Return what precedes the text of every content chunk of a choice."""
        return self._head + b'{"index":%d,"delta":{"content":' % index

    @property
    def suffix(self) -> bytes:
        """What follows the text of a content chunk."""
        return b'},"logprobs":null,"finish_reason":null}' + self._tail

    def role(self, index: int) -> bytes:
        """Return the first chunk of a choice."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},' % index
        return self._head + delta + b'"logprobs":null,"finish_reason":null}' + self._tail

    def finish(self, index: int, reason: FinishReason) -> bytes:
        """Return the last chunk of a choice."""
        choice = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%s"}'
        return self._head + choice % (index, reason.encode()) + self._tail

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk with the usage."""
        return self._head + b"]" + self._usage + _encode(usage) + b"}\n\n"


def error_frame(error: VGateError) -> bytes:
    """Return the event that ends a broken stream. No [DONE] follows it."""
    return b"data: " + error_body(error) + b"\n\n"
