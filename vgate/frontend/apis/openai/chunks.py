"""What chat completions and completions share: token counts, and the frame of stream chunks."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers import KEEP_ALIVE_COMMENT, ChoiceDelta, FinishReason, TokenCounts
from vgate.frontend.apis.openai.common import GenerationRequest, StreamOptions
from vgate.frontend.apis.openai.errors import error_body
from vgate.frontend.apis.openai.logprobs import LogprobTexts, logprob_texts
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline import Job

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"
_HEAD_END = b',"system_fingerprint":null,"choices":['
_NO_OPTIONS = StreamOptions()


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request, summed over its choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    # How many of the prompt's tokens the prefix cache had.
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]

    @classmethod
    def of(cls, counts: TokenCounts) -> Self:
        """Convert the counts."""
        return cls(
            counts.prompt,
            counts.completion,
            counts.prompt + counts.completion,
            {"cached_tokens": counts.cached},
            {"reasoning_tokens": counts.reasoning},
        )


class ResponseFields(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of both APIs' encoders; `created` is Unix time."""

    id: str
    created: int
    model: str
    stream_options: StreamOptions | None = None
    logprobs: LogprobTexts | None = None


def response_fields(id_prefix: str, request: GenerationRequest, job: Job) -> dict[str, Any]:
    """Return the values of `ResponseFields` for a new response.

    Its id has the one that the client chose for the request, in a header or a field, as vLLM's.
    """
    asked_id = job.asked_id or request.request_id
    return {
        "id": id_prefix + asked_id if asked_id else new_id(id_prefix),
        "created": job.created,
        "model": job.name,
        "stream_options": request.stream_options,
        "logprobs": logprob_texts(
            job,
            request.prompt_logprobs,
            as_token_ids=bool(request.return_tokens_as_token_ids),
            skip_special_tokens=request.skip_special_tokens is not False,
        ),
    }


class ChunkStream:
    """The parts of a stream that both APIs share; a subclass implements `delta`."""

    __slots__ = ("_continuous_usage", "_head", "_include_usage", "_usage", "counts")

    counts: Callable[[], TokenCounts]
    keep_alive: ClassVar[bytes] = KEEP_ALIVE_COMMENT

    def __init__(self, fields: ResponseFields, kind: bytes) -> None:
        created, model = _encode(fields.created), _encode(fields.model)
        head = b'data: {"id":', _encode(fields.id), b',"object":"', kind, b'","created":', created
        # The start of every chunk, up to its choices. `%` of bytes takes longer.
        self._head = b"".join((*head, b',"model":', model, _HEAD_END))
        options = fields.stream_options or _NO_OPTIONS
        self._include_usage = bool(options.include_usage)
        # As in vLLM, `continuous_usage_stats` has no effect without `include_usage`.
        self._continuous_usage = self._include_usage and bool(options.continuous_usage_stats)
        # OpenAI's chunks carry "usage": null before the one that has it.
        self._usage = b',"usage":null' if self._include_usage else b""

    def begin(self) -> bytes:
        """Return nothing: a stream begins with its first choice."""
        return b""

    def delta(self, index: int, delta: ChoiceDelta | None, finish_reason: bytes = b"null") -> bytes:
        """Return the chunk of a delta that is not only text.

        `finish_reason` is JSON, with the members that follow it.
        """
        raise NotImplementedError

    def finish(
        self,
        index: int,
        finish_reason: FinishReason,
        stop_reason: int | str | None,
        last: ChoiceDelta | None = None,
    ) -> bytes:
        """Return the last chunk of a choice: that of its last token, as in vLLM."""
        reason = b'"%s","stop_reason":%s' % (finish_reason.encode(), _encode(stop_reason))
        return self.delta(index, last, reason)

    def end(self) -> bytes:
        """Return the usage, if it was requested, and [DONE]."""
        if not self._include_usage:
            return DONE
        return self._head + b'],"usage":' + _encode(Usage.of(self.counts())) + b"}\n\n" + DONE

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No [DONE] follows it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _tail(self, *, begins: bool = False) -> bytes:
        """Return the end of a chunk, after its choices; of the first one if the stream begins."""
        usage = self._usage
        if self._continuous_usage:
            counts = self.counts()
            # A cached answer has all of its tokens by then.
            if begins:
                counts = TokenCounts(counts.prompt, 0, counts.cached)
            usage = b',"usage":' + _encode(Usage.of(counts))
        return usage + b"}\n\n"
