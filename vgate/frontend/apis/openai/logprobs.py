"""Log probabilities as OpenAI's two APIs show them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vgate.frontend.pipeline.port import Job, TokenTexts
from vgate.wire.messages import Logprobs

# JSON has no infinity; this is what OpenAI and vLLM show instead.
_LEAST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that was likely at some place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The ``logprobs`` of a chat choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """The ``logprobs`` of a completion choice; the lists have an item for each token.

    Attributes:
        text_offset: Where the token begins, in characters from the beginning of the choice's text.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class LogprobTexts:
    """Writes log probabilities.

    Args:
        texts: The vocabulary.
        as_token_ids: Whether tokens are shown as ``token_id:N`` instead of their text.
    """

    def __init__(self, texts: TokenTexts, *, as_token_ids: bool = False) -> None:
        self._texts = texts
        self._name: Callable[[int], str] = "token_id:{}".format if as_token_ids else texts.text_of

    def chat(self, places: list[Logprobs], top: int) -> ChatLogprobs:
        """Return the tokens, each with the `top` most likely ones at its place."""
        return ChatLogprobs([self._token(place, top) for place in places])

    def _token(self, place: Logprobs, top: int) -> TokenLogprob:
        ids, logprobs = place.token_ids, [max(value, _LEAST) for value in place.logprobs]
        others = list(zip(ids[1 : top + 1], logprobs[1 : top + 1], strict=True))
        return TokenLogprob(
            self._name(ids[0]),
            logprobs[0],
            list(self._texts.bytes_of(ids[0])),
            [
                TopLogprob(self._name(token_id), logprob, list(self._texts.bytes_of(token_id)))
                for token_id, logprob in others
            ],
        )

    def completion(
        self, tokens: list[int], places: list[Logprobs | None], top: int, offset: int
    ) -> CompletionLogprobs:
        """Return the tokens, each with the `top` most likely ones and itself.

        Args:
            tokens: What is at each place.
            places: None where nothing precedes the token.
            top: How many.
            offset: Characters of the choice's text that precede the first of them.
        """
        shown = CompletionLogprobs([], [], [], [])
        for token_id, place in zip(tokens, places, strict=True):
            name = self._name(token_id)
            shown.text_offset.append(offset)
            shown.tokens.append(name)
            offset += len(name)
            if place is None:
                shown.token_logprobs.append(None)
                shown.top_logprobs.append(None)
                continue
            pairs = list(zip(place.token_ids, place.logprobs, strict=True))[: top + 1]
            shown.token_logprobs.append(max(place.logprobs[0], _LEAST))
            shown.top_logprobs.append(
                {self._name(other): max(logprob, _LEAST) for other, logprob in pairs}
            )
        return shown

    def prompt(
        self, places: list[Logprobs | None], top: int
    ) -> list[dict[str, PromptLogprob] | None]:
        """Return the prompt's tokens as vLLM shows them: by token id."""
        return [
            None
            if place is None
            else {
                str(token_id): PromptLogprob(
                    max(logprob, _LEAST),
                    place.rank if position == 0 else position,
                    self._name(token_id),
                )
                for position, (token_id, logprob) in enumerate(
                    list(zip(place.token_ids, place.logprobs, strict=True))[: top + 1]
                )
            }
            for place in places
        ]


class PromptLogprob(msgspec.Struct, frozen=True):
    """A token of the prompt, or one that was likely at its place."""

    logprob: float
    rank: int
    decoded_token: str


def logprob_texts(job: Job, *, as_token_ids: bool = False) -> LogprobTexts | None:
    """Return what writes an answer's log probabilities; None if a job has none."""
    if job.options.logprobs is None and job.options.prompt_logprobs is None:
        return None
    return LogprobTexts(job.token_texts, as_token_ids=as_token_ids)
