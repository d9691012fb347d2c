"""Log probabilities in the formats of OpenAI's APIs."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.pipeline.port import Job, TokenTexts
from vgate.wire.messages import Logprobs

# JSON has no infinity; OpenAI and vLLM use this number instead.
_LEAST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True):
    """A likely token at some position."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob, frozen=True):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The ``logprobs`` of a chat choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """The ``logprobs`` of a completion choice: parallel lists with an entry for each token.

    Attributes:
        text_offset: Where the token begins, in characters from the start of the choice's text.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(msgspec.Struct, frozen=True):
    """A token of the prompt, or a likely one at its position."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class LogprobTexts:
    """Converts log probabilities to the formats above.

    Args:
        texts: The vocabulary.
        top: The most tokens to list at each position of the answer; None for no log probabilities.
        prompt_top: The same for the prompt.
        as_token_ids: Whether to write tokens as ``token_id:N`` instead of their text.
    """

    def __init__(
        self,
        texts: TokenTexts,
        *,
        top: int | None = None,
        prompt_top: int | None = None,
        as_token_ids: bool = False,
    ) -> None:
        self._bytes = texts.bytes_of
        self._name = "token_id:{}".format if as_token_ids else texts.text_of
        self._top = top
        self._prompt_top = prompt_top

    def chat(self, positions: list[Logprobs]) -> ChatLogprobs:
        """Return the tokens in the chat format."""
        return ChatLogprobs([self._token(position) for position in positions])

    def _token(self, position: Logprobs) -> TokenLogprob:
        token, *top = [
            (self._name(token_id), logprob, list(self._bytes(token_id)))
            for token_id, logprob in _pairs(position, self._top or 0)
        ]
        return TokenLogprob(*token, [TopLogprob(*other) for other in top])

    def completion(
        self, tokens: list[int], positions: list[Logprobs | None], offset: int
    ) -> CompletionLogprobs | None:
        """Return the tokens in the completion format; None if `top` is None.

        Args:
            tokens: The token at each position.
            positions: None where nothing precedes the token.
            offset: Characters of the choice's text before the first token.
        """
        if self._top is None:
            return None
        lists = CompletionLogprobs([], [], [], [])
        for token_id, position in zip(tokens, positions, strict=True):
            name = self._name(token_id)
            lists.text_offset.append(offset)
            lists.tokens.append(name)
            offset += len(name)
            if position is None:
                lists.token_logprobs.append(None)
                lists.top_logprobs.append(None)
                continue
            pairs = _pairs(position, self._top)
            lists.token_logprobs.append(pairs[0][1])
            lists.top_logprobs.append({self._name(other): logprob for other, logprob in pairs})
        return lists

    def prompt(self, positions: list[Logprobs | None] | None) -> PromptLogprobs | UnsetType:
        """Return the prompt's tokens in vLLM's format; UNSET if `prompt_top` is None."""
        if self._prompt_top is None or positions is None:
            return UNSET
        return [
            None
            if position is None
            else {
                str(token_id): PromptLogprob(logprob, rank or position.rank, self._name(token_id))
                for rank, (token_id, logprob) in enumerate(_pairs(position, self._prompt_top))
            }
            for position in positions
        ]


def _pairs(position: Logprobs, top: int) -> list[tuple[int, float]]:
    """Return the sampled token and the `top` most likely ones with their log probabilities."""
    logprobs = [max(logprob, _LEAST) for logprob in position.logprobs[: top + 1]]
    return list(zip(position.token_ids[: top + 1], logprobs, strict=True))


def logprob_texts(
    job: Job, *, prompt_top: int | None = None, as_token_ids: bool = False
) -> LogprobTexts | None:
    """Return the converter of a job's log probabilities; None if it has none."""
    top = job.options.logprobs
    if top is None and job.options.prompt_logprobs is None:
        return None
    return LogprobTexts(job.token_texts, top=top, prompt_top=prompt_top, as_token_ids=as_token_ids)
