"""What chat completions and completions share: token counts, and the frame of stream chunks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.result import TokenCounts
from vgate.frontend.apis.openai.common import StreamOptions
from vgate.frontend.apis.openai.errors import error_body

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How many prompt tokens the prefix cache had."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """How many generated tokens are reasoning."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request, summed over its choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, counts: TokenCounts) -> Usage:
        """Convert the counts."""
        return cls(
            counts.prompt,
            counts.completion,
            counts.prompt + counts.completion,
            PromptTokensDetails(counts.cached),
            CompletionTokensDetails(counts.reasoning),
        )


class ResponseFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that a response and all of its chunks repeat; `created` is Unix time."""

    id: str
    created: int
    model: str
    stream_options: StreamOptions | None = None


class ChunkStream:
    """The parts of a stream that the two APIs share.

    Args:
        fields: The fields that every chunk repeats.
        kind: The ``object`` of the chunks.
    """

    __slots__ = ("_continuous_usage", "_head", "_include_usage", "_usage", "counts")

    counts: Callable[[], TokenCounts]

    def __init__(self, fields: ResponseFields, kind: bytes) -> None:
        head = (
            b'data: {"id":%s,"object":"%s","created":%d,"model":%s,'
            b'"system_fingerprint":null,"choices":['
        )
        # The start of every chunk, up to its choices.
        self._head = head % (_encode(fields.id), kind, fields.created, _encode(fields.model))
        options = fields.stream_options or StreamOptions()
        self._include_usage = bool(options.include_usage)
        # As in vLLM, `continuous_usage_stats` has no effect without `include_usage`.
        self._continuous_usage = self._include_usage and bool(options.continuous_usage_stats)
        # OpenAI's chunks carry "usage": null before the one that has it.
        self._usage = b',"usage":null' if self._include_usage else b""

    def begin(self) -> bytes:
        """Return nothing: a stream begins with its first choice."""
        return b""

    def end(self) -> bytes:
        """Return the usage, if it was requested, and [DONE]."""
        if not self._include_usage:
            return DONE
        return self._head + b'],"usage":' + _encode(Usage.of(self.counts())) + b"}\n\n" + DONE

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No [DONE] follows it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _tail(self) -> bytes:
        """Return the end of a chunk, after its choices."""
        usage = self._usage
        if self._continuous_usage:
            usage = b',"usage":' + _encode(Usage.of(self.counts()))
        return usage + b"}\n\n"
