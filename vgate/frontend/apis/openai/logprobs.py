"""Log probabilities in the formats of OpenAI's APIs."""

from codecs import utf_8_decode

import msgspec

from vgate.frontend.pipeline import Job, TokenTexts
from vgate.wire.logprobs import Logprobs

# JSON has no infinity; OpenAI and vLLM use this number instead.
_LEAST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """A likely token at some position."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(TopLogprob, frozen=True, gc=False):
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


class TextOffsets:
    """Finds where the tokens of one choice begin in its text, in characters. Ask in their order.

    A character belongs to the token with its last byte, as in vLLM; special tokens that the text
    leaves out have no width.
    """

    def __init__(self, texts: TokenTexts, *, skip_special_tokens: bool) -> None:
        self._texts = texts
        self._skips = skip_special_tokens
        self._next = 0
        # The first bytes of a character.
        self._rest = b""

    def of_prompt(self, tokens: list[int], text: str) -> list[int]:
        """Return the offsets of the prompt's tokens; the choice's text begins with its `text`."""
        offsets = []
        for token_id in tokens:
            offsets.append(min(self._next, len(text)))
            piece = self._decode(token_id)
            if not text.startswith(piece, self._next):
                if self._texts.is_special(token_id):
                    # The tokenizer added it.
                    continue
                if not self._next:
                    # SentencePiece puts a space before a text.
                    piece = piece.removeprefix(" ")
            self._next += len(piece)
        self._next = len(text)
        return offsets

    def of_next(self, token_id: int) -> int:
        """Return the offset of the answer's next token."""
        offset = self._next
        if not (self._skips and self._texts.is_special(token_id)):
            self._next += len(self._decode(token_id))
        return offset

    def _decode(self, token_id: int) -> str:
        """Return the characters that a token completes."""
        data = self._rest + self._texts.bytes_of(token_id)
        text, end = utf_8_decode(data, "replace", False)
        self._rest = data[end:]
        return text


class LogprobTexts:
    """Converts log probabilities to the formats above.

    `top` is how many likely tokens to list at each position of the answer, `prompt_top` the same
    for the prompt; None for no log probabilities. `as_token_ids` writes tokens as ``token_id:N``.
    `skip_special_tokens` says whether the answer's text leaves them out, and `of_content` whether
    there are none but the content's.
    """

    def __init__(
        self,
        texts: TokenTexts,
        *,
        top: int | None = None,
        prompt_top: int | None = None,
        as_token_ids: bool = False,
        skip_special_tokens: bool = True,
        of_content: bool = False,
    ) -> None:
        self.of_content = of_content
        self._texts = texts
        self._skips = skip_special_tokens
        self._bytes = texts.byte_values_of
        self._name = "token_id:{}".format if as_token_ids else texts.text_of
        self._top = top
        self._prompt_top = prompt_top

    def chat(self, positions: list[Logprobs]) -> ChatLogprobs:
        """Return the tokens in the chat format."""
        return ChatLogprobs([self._token(position) for position in positions])

    def _token(self, position: Logprobs) -> TokenLogprob:
        values = zip(*position.unpack((self._top or 0) + 1), strict=True)
        token_id, logprob = next(values)
        return TokenLogprob(
            self._name(token_id),
            max(logprob, _LEAST),
            self._bytes(token_id),
            [
                TopLogprob(self._name(token_id), max(logprob, _LEAST), self._bytes(token_id))
                for token_id, logprob in values
            ],
        )

    def offsets(self) -> TextOffsets:
        """Return what finds the offsets of a choice's tokens."""
        return TextOffsets(self._texts, skip_special_tokens=self._skips)

    def completion(
        self, tokens: list[int], positions: list[Logprobs | None], offsets: list[int]
    ) -> CompletionLogprobs | None:
        """Return the tokens in the completion format; None if `top` is None.

        A position is None where nothing precedes its token.
        """
        if self._top is None:
            return None
        lists, end = CompletionLogprobs(offsets, [], [], []), self._top + 1
        for token_id, position in zip(tokens, positions, strict=True):
            lists.tokens.append(self._name(token_id))
            if position is None:
                lists.token_logprobs.append(None)
                lists.top_logprobs.append(None)
                continue
            ids, logprobs = position.unpack(end)
            pairs = zip(ids, logprobs, strict=True)
            lists.token_logprobs.append(max(logprobs[0], _LEAST))
            lists.top_logprobs.append(
                {self._name(other): max(logprob, _LEAST) for other, logprob in pairs}
            )
        return lists

    def prompt(self, positions: list[Logprobs | None] | None) -> PromptLogprobs | None:
        """Return the prompt's tokens in vLLM's format; None if `prompt_top` is None."""
        if self._prompt_top is None or positions is None:
            return None
        end = self._prompt_top + 1
        return [
            None
            if position is None
            else {
                str(token_id): PromptLogprob(
                    max(logprob, _LEAST), rank or position.rank, self._name(token_id)
                )
                for rank, (token_id, logprob) in enumerate(zip(*position.unpack(end), strict=True))
            }
            for position in positions
        ]


def logprob_texts(
    job: Job,
    prompt_top: int | None = None,
    *,
    as_token_ids: bool = False,
    skip_special_tokens: bool = True,
) -> LogprobTexts | None:
    """Return the converter of a job's log probabilities; None if it has none."""
    top = job.options.logprobs
    if top is None and job.options.prompt_logprobs is None:
        return None
    if prompt_top == -1:
        prompt_top = job.options.prompt_logprobs
    return LogprobTexts(
        job.token_texts,
        top=top,
        prompt_top=prompt_top,
        as_token_ids=as_token_ids,
        skip_special_tokens=skip_special_tokens,
        of_content=job.logprobs_of_content,
    )
