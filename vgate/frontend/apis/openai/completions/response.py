"""Completion responses and stream chunks (the older API, without a conversation)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result
from vgate.frontend.apis.openai.chunks import ChunkStream, ResponseOptions
from vgate.frontend.apis.openai.logprobs import CompletionLogprobs, LogprobTexts, PromptLogprob
from vgate.frontend.apis.openai.usage import Usage
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode


class CompletionResponseOptions(ResponseOptions, frozen=True, kw_only=True):
    """What a client of completions wants to see beside.

    Attributes:
        choices_each: Choices for each prompt.
        prompts: Token ids of the prompts.
        echo: Texts of the prompts, if answers are to begin with them.
        texts: Writes log probabilities; None if none were asked for.
        logprobs: How many at each place; None if they weren't asked for.
        prompt_logprobs: The same for the places of the prompt, shown beside.
        return_token_ids: Whether to show the prompt's and the answer's token ids.
    """

    choices_each: int
    prompts: list[list[int]]
    echo: list[str] | None = None
    texts: LogprobTexts | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool = False

    def prompt(self, index: int) -> list[int]:
        """Return the prompt of a choice."""
        return self.prompts[index // self.choices_each]

    def echo_of(self, index: int) -> str:
        """Return the text that a choice begins with."""
        return "" if self.echo is None else self.echo[index // self.choices_each]

    def logprobs_of(
        self, tokens: list[int], places: list[Logprobs | None], offset: int
    ) -> CompletionLogprobs | None:
        """Return the log probabilities of some tokens, if they were asked for."""
        if self.texts is None or self.logprobs is None:
            return None
        return self.texts.completion(tokens, places, self.logprobs, offset)


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: CompletionLogprobs | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True):
    """The response of a request that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    object: Literal["text_completion"] = "text_completion"
    system_fingerprint: None = None


class CompletionEncoder:
    """Encodes an answer as a completion."""

    def __init__(self, options: CompletionResponseOptions) -> None:
        self._options = options

    def stream_encoder(self) -> CompletionStream:
        """Return what streams one answer."""
        return CompletionStream(self._options)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        completion = Completion(
            self._options.id,
            self._options.created,
            self._options.model,
            [self._choice(index, choice) for index, choice in enumerate(answer.choices)],
            Usage.of(answer.counts),
        )
        return _encode(completion)

    def _choice(self, index: int, choice: ChoiceResult) -> CompletionChoice:
        options, prompt_places = self._options, choice.prompt_logprobs
        tokens = [place.token_ids[0] for place in choice.logprobs or []]
        places: list[Logprobs | None] = list(choice.logprobs or [])
        if options.echo is not None and prompt_places is not None:
            tokens, places = options.prompt(index) + tokens, prompt_places + places
        beside: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET
        if options.prompt_logprobs is not None and options.texts and prompt_places is not None:
            beside = options.texts.prompt(prompt_places, options.prompt_logprobs)
        return CompletionChoice(
            index,
            options.echo_of(index) + choice.text,
            choice.finish_reason,
            options.logprobs_of(tokens, places, 0),
            choice.stop_reason,
            beside,
            choice.token_ids if choice.token_ids is not None else UNSET,
            options.prompt(index) if options.return_token_ids else UNSET,
        )


class CompletionStream(ChunkStream):
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`."""

    __slots__ = ("_offsets", "_options", "_prefixes", "_suffix")

    def __init__(self, options: CompletionResponseOptions) -> None:
        super().__init__(options, b"text_completion")
        self._options = options
        self._suffix = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        self._prefixes: dict[int, bytes] = {}
        # Where each choice's next token begins in its text.
        self._offsets: dict[int, int] = {}

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the chunk with the prompt, if it is to be shown."""
        self._prefixes[index] = self._head + b'{"index":%d,"text":' % index
        self._offsets[index] = 0
        options = self._options
        if options.echo is None and not options.return_token_ids:
            return b""
        shown = b"null"
        if options.echo is not None and prompt_logprobs is not None:
            shown = self._logprobs(index, options.prompt(index), prompt_logprobs)
        more = b""
        if options.return_token_ids:
            more = b',"prompt_token_ids":' + _encode(options.prompt(index))
        return self._chunk(index, options.echo_of(index), shown, more)

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        if self._continuous_usage:
            return self._chunk(index, text, b"null")
        return self._prefixes[index] + _encode(text) + self._suffix

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a chunk that is more than text."""
        shown, more = b"null", b""
        if piece.logprobs:
            tokens = [place.token_ids[0] for place in piece.logprobs]
            shown = self._logprobs(index, tokens, list(piece.logprobs))
        if piece.token_ids is not None:
            more = b',"token_ids":' + _encode(piece.token_ids)
        return self._chunk(index, piece.text, shown, more)

    def finish(
        self, index: int, finish_reason: FinishReason, stop_reason: int | str | None
    ) -> bytes:
        """Return the last chunk of a choice."""
        end = b'"","logprobs":null,"finish_reason":"%s","stop_reason":%s}]'
        end %= (finish_reason.encode(), _encode(stop_reason))
        return self._prefixes[index] + end + self._tail()

    def _logprobs(self, index: int, tokens: list[int], places: list[Logprobs | None]) -> bytes:
        shown = self._options.logprobs_of(tokens, places, self._offsets[index])
        if shown is not None and shown.tokens:
            self._offsets[index] = shown.text_offset[-1] + len(shown.tokens[-1])
        return _encode(shown)

    def _chunk(self, index: int, text: str, logprobs: bytes, more: bytes = b"") -> bytes:
        middle = b',"logprobs":%s,"finish_reason":null%s}]' % (logprobs, more)
        return self._prefixes[index] + _encode(text) + middle + self._tail()
