"""What whole and streamed answers have in common: why they ended, and what they cost."""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.frontend.answers.result import FinishReason, TokenCounts

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

# Nothing is signed: what the model thinks comes back as text. Some clients drop thinking that has
# no signature, so there is one.
SIGNATURE = "unsigned"


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """What the answer's tokens are."""

    thinking_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts. The prompt's are `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails

    @classmethod
    def of(cls, counts: TokenCounts) -> Usage:
        """Write the counts."""
        return cls(
            counts.prompt - counts.cached,
            0,
            counts.cached,
            counts.completion,
            OutputTokensDetails(counts.reasoning),
        )


def stop_of(
    finish_reason: FinishReason, stop_reason: int | str | None, *, called: bool
) -> tuple[StopReason, str | None]:
    """Return why an answer ended, and the client's stop sequence that ended it, if one did.

    Args:
        finish_reason: Why the choice ended.
        stop_reason: What ended it, if not the model itself.
        called: Whether the model called tools.
    """
    if finish_reason == "length":
        return "max_tokens", None
    if isinstance(stop_reason, str):
        return "stop_sequence", stop_reason
    return ("tool_use" if called else "end_turn"), None
