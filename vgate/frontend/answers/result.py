"""A complete answer in no API's format, as it is cached and as each API encodes it."""

from typing import Literal

import msgspec

from vgate.wire.logprobs import Logprobs

# Why a choice ended, in OpenAI's words.
FinishReason = Literal["stop", "length", "tool_calls"]


class TokenCounts(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of a request, for all its choices.

    Attributes:
        cached: Those of the prompt that the engine's prefix cache had.
        reasoning: Those of the completion that are reasoning.
    """

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


class ToolCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that the model made; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ChoiceResult(msgspec.Struct, frozen=True, array_like=True):
    """One complete choice.

    Attributes:
        stop_reason: The stop string or stop token id that ended it; None for the usual end.
        logprobs, token_ids: One for each token, if they were asked for.
        prompt_logprobs: One for each token of its prompt, if they were asked for.
    """

    text: str
    finish_reason: FinishReason
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    stop_reason: int | str | None = None
    logprobs: list[Logprobs] | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None


class Result(msgspec.Struct, frozen=True, array_like=True):
    """All choices, and their token counts."""

    choices: list[ChoiceResult]
    counts: TokenCounts

    @property
    def positions(self) -> int:
        """How many tokens have log probabilities, which take the longest to write."""
        return sum(
            len(choice.logprobs or ()) + len(choice.prompt_logprobs or ())
            for choice in self.choices
        )
