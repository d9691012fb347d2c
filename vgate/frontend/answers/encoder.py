"""How an API encodes answers: the protocols that its encoders follow, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from vgate.errors import VGateError
from vgate.frontend.answers.result import FinishReason, Result, TokenCounts
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.messages import Logprobs


class ChoiceDelta(NamedTuple):
    """What came at once for one choice. Most often it is text and nothing else.

    Attributes:
        text: What the model says.
        reasoning: What it thinks; comes before the text of the same piece.
        tool_calls: Parts of tool calls; come after it.
        logprobs, token_ids: Of the tokens that came, if they were asked for.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: list[Logprobs] | None = None
    token_ids: list[int] | None = None


class StreamEncoder(Protocol):
    """Turns what happens to an answer into server-sent events.

    What each method returns are whole events. One instance serves one answer, and may keep state.

    The order of calls is: `begin`; for each choice `open`, any number of `text` and `delta`, then
    `finish`; `end` when all have finished. `error` may come at any time instead, and is the last.

    Attributes:
        counts: Set by the answer before `begin`; tells the token counts so far.
    """

    counts: Callable[[], TokenCounts]

    def begin(self) -> bytes:
        """Return what precedes everything else."""

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return what precedes the first token of choice `index`.

        Args:
            index: Which choice.
            prompt_logprobs: One for each token of its prompt, if they were asked for.
        """

    def text(self, index: int, text: str) -> bytes:
        """Return text of choice `index`. The hot path: called for nearly every token."""

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a piece that is more than text."""

    def finish(
        self, index: int, finish_reason: FinishReason, stop_reason: int | str | None
    ) -> bytes:
        """Return the end of a choice."""

    def end(self) -> bytes:
        """Return the end of a complete answer."""

    def error(self, error: VGateError) -> bytes:
        """Return the end of a broken one."""


class ResponseEncoder(Protocol):
    """Encodes one answer as its API has it, whole or as a stream."""

    def stream_encoder(self) -> StreamEncoder:
        """Return the encoder of the answer as a stream."""

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
