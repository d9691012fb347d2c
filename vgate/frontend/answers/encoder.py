"""The protocols of an API's encoders, the delta that they encode, and replays of whole answers."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from vgate.errors import VGateError
from vgate.frontend.answers.result import FinishReason, Result, TokenCounts
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.logprobs import Logprobs

# A comment in server-sent events: clients skip it.
KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


class ChoiceDelta(NamedTuple):
    """New output of one choice, in the order reasoning, text, tool calls. Most often only text.

    Attributes:
        logprobs, token_ids: Those of the new tokens, if they were asked for.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: list[Logprobs] | None = None
    token_ids: list[int] | None = None


class StreamEncoder(Protocol):
    """Turns an answer's deltas into server-sent events. Each method returns whole events.

    One instance serves one answer, and may keep state. The order of calls is: `begin`; for each
    choice `open`, any number of `text` and `delta`, then `finish`; `end` when all have finished.
    `error` may come at any time instead, and is the last.

    Attributes:
        counts: Returns the token counts so far. Set by the answer before `begin`.
    """

    counts: Callable[[], TokenCounts]

    @property
    def keep_alive(self) -> bytes:
        """An event without a meaning. It may be sent after any other."""

    def begin(self) -> bytes:
        """Return the first events of the stream."""

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the first events of choice `index`.

        Args:
            index: Which choice.
            prompt_logprobs: One for each token of its prompt, if they were asked for.
        """

    def text(self, index: int, text: str) -> bytes:
        """Return text of choice `index`. The hot path: called for nearly every token."""

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a delta that is more than text."""

    def finish(
        self,
        index: int,
        finish_reason: FinishReason,
        stop_reason: int | str | None,
        last: ChoiceDelta | None = None,
    ) -> bytes:
        """Return the last events of choice `index`; `last` is the output that came with its end."""

    def end(self) -> bytes:
        """Return the last events of a complete answer."""

    def error(self, error: VGateError) -> bytes:
        """Return the last events of an answer that failed."""


class ResponseEncoder(Protocol):
    """Encodes one answer in its API's format, at once or as a stream."""

    def stream_encoder(self) -> StreamEncoder:
        """Return the encoder of the answer as a stream."""

    def encode(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""


def replay(stream_encoder: StreamEncoder, result: Result) -> bytes:
    """Return the events of a finished answer, with one delta for each choice."""
    stream_encoder.counts = lambda: result.counts
    out = [stream_encoder.begin()]
    for index, choice in enumerate(result.choices):
        out.append(stream_encoder.open(index, choice.prompt_logprobs))
        made = enumerate(choice.tool_calls)
        calls = tuple(ToolCallDelta(i, call.id, call.name, call.arguments) for i, call in made)
        piece = ChoiceDelta(choice.text, choice.reasoning, calls, choice.logprobs, choice.token_ids)
        last = piece if any(piece) else None
        out.append(stream_encoder.finish(index, choice.finish_reason, choice.stop_reason, last))
    out.append(stream_encoder.end())
    return b"".join(out)
