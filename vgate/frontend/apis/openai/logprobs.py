"""Log probabilities in the formats of OpenAI's APIs."""

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.pipeline import Job, TokenTexts
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
    """The ``logprobs`` of a completion choice: parallel lists with an entry for each token."""

    # In characters from the start of the choice's text.
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

    `top` is how many likely tokens to list at each position of the answer, `prompt_top` the same
    for the prompt; None for no log probabilities. `as_token_ids` writes tokens as ``token_id:N``.
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
        ids, logprobs, end = position.token_ids, position.logprobs, (self._top or 0) + 1
        return TokenLogprob(
            self._name(ids[0]),
            max(logprobs[0], _LEAST),
            list(self._bytes(ids[0])),
            [
                TopLogprob(self._name(token_id), max(logprob, _LEAST), list(self._bytes(token_id)))
                for token_id, logprob in zip(ids[1:end], logprobs[1:end], strict=True)
            ],
        )

    def completion(
        self, tokens: list[int], positions: list[Logprobs | None], offset: int
    ) -> CompletionLogprobs | None:
        """Return the tokens in the completion format; None if `top` is None.

        A position is None where nothing precedes its token. `offset` counts the characters of the
        choice's text before the first token.
        """
        if self._top is None:
            return None
        lists, end = CompletionLogprobs([], [], [], []), self._top + 1
        for token_id, position in zip(tokens, positions, strict=True):
            name = self._name(token_id)
            lists.text_offset.append(offset)
            lists.tokens.append(name)
            offset += len(name)
            if position is None:
                lists.token_logprobs.append(None)
                lists.top_logprobs.append(None)
                continue
            pairs = zip(position.token_ids[:end], position.logprobs[:end], strict=True)
            lists.token_logprobs.append(max(position.logprobs[0], _LEAST))
            lists.top_logprobs.append(
                {self._name(other): max(logprob, _LEAST) for other, logprob in pairs}
            )
        return lists

    def prompt(self, positions: list[Logprobs | None] | None) -> PromptLogprobs | UnsetType:
        """Return the prompt's tokens in vLLM's format; UNSET if `prompt_top` is None."""
        if self._prompt_top is None or positions is None:
            return UNSET
        end = self._prompt_top + 1
        return [
            None
            if position is None
            else {
                str(token_id): PromptLogprob(
                    max(logprob, _LEAST), rank or position.rank, self._name(token_id)
                )
                for rank, (token_id, logprob) in enumerate(
                    zip(position.token_ids[:end], position.logprobs[:end], strict=True)
                )
            }
            for position in positions
        ]


def logprob_texts(
    job: Job, prompt_top: int | None = None, *, as_token_ids: bool = False
) -> LogprobTexts | None:
    """Return the converter of a job's log probabilities; None if it has none."""
    top = job.options.logprobs
    if top is None and job.options.prompt_logprobs is None:
        return None
    return LogprobTexts(job.token_texts, top=top, prompt_top=prompt_top, as_token_ids=as_token_ids)
