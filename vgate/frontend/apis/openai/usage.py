"""Token counts as OpenAI's chat and completion APIs show them."""

from __future__ import annotations

import msgspec

from vgate.frontend.answers.result import TokenCounts


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How the prompt was processed."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """What the answer's tokens are."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts of a request; with several choices, of all of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, counts: TokenCounts) -> Usage:
        """Write the counts."""
        return cls(
            counts.prompt,
            counts.completion,
            counts.prompt + counts.completion,
            PromptTokensDetails(counts.cached),
            CompletionTokensDetails(counts.reasoning),
        )
