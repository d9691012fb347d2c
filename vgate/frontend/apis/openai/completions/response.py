"""Completion responses and stream chunks (the older API, without a conversation)."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.answers import ChoiceDelta, ChoiceResult, FinishReason, Result
from vgate.frontend.apis.openai.chunks import ChunkStream, ResponseFields, Usage
from vgate.frontend.apis.openai.logprobs import CompletionLogprobs, PromptLogprobs
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: CompletionLogprobs | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True):
    """A non-streaming response."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    object: Literal["text_completion"] = "text_completion"
    system_fingerprint: None = None


class CompletionEncoder(ResponseFields, frozen=True, kw_only=True):
    """Encodes one answer as a completion; `choices_each` counts the choices of each prompt."""

    choices_each: int
    prompts: list[list[int]]
    # Texts of the prompts, if each answer begins with its prompt.
    echo: list[str] | None = None
    return_token_ids: bool = False

    def prompt(self, index: int) -> list[int]:
        """Return the prompt of a choice."""
        return self.prompts[index // self.choices_each]

    def echo_of(self, index: int) -> str:
        """Return the text that a choice begins with."""
        return "" if self.echo is None else self.echo[index // self.choices_each]

    def stream_encoder(self) -> "CompletionStream":
        """Return the encoder of a stream."""
        return CompletionStream(self)

    def encode(self, answer: Result) -> bytes:
        """Return the body of a non-streaming response."""
        choices = [self._choice(index, choice) for index, choice in enumerate(answer.choices)]
        usage = Usage.of(answer.counts)
        return _encode(Completion(self.id, self.created, self.model, choices, usage))

    def _choice(self, index: int, choice: ChoiceResult) -> CompletionChoice:
        texts, prompt_logprobs = self.logprobs, choice.prompt_logprobs
        logprobs: list[Logprobs | None] = list(choice.logprobs or [])
        tokens = [position.token_ids[0] for position in choice.logprobs or []]
        if self.echo is not None and prompt_logprobs is not None:
            tokens, logprobs = self.prompt(index) + tokens, prompt_logprobs + logprobs
        return CompletionChoice(
            index,
            self.echo_of(index) + choice.text,
            choice.finish_reason,
            None if texts is None else texts.completion(tokens, logprobs, 0),
            choice.stop_reason,
            UNSET if texts is None else texts.prompt(prompt_logprobs),
            UNSET if choice.token_ids is None else choice.token_ids,
            self.prompt(index) if self.return_token_ids else UNSET,
        )


class CompletionStream(ChunkStream):
    """Encodes the events of one stream; see `vgate.frontend.answers.StreamEncoder`."""

    __slots__ = ("_offsets", "_options", "_prefixes", "_suffix")

    def __init__(self, options: CompletionEncoder) -> None:
        super().__init__(options, b"text_completion", b'"text":""')
        self._options = options
        self._suffix = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        self._prefixes: dict[int, bytes] = {}
        # Where the next token of each choice begins in its text.
        self._offsets: dict[int, int] = {}

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the chunk with the prompt, if the client wants it."""
        self._prefixes[index] = self._head + b'{"index":%d,"text":' % index
        self._offsets[index] = 0
        options = self._options
        if options.echo is None and not options.return_token_ids:
            return b""
        logprobs, prompt_token_ids = b"null", b""
        if options.echo is not None and prompt_logprobs is not None:
            logprobs = self._logprobs(index, options.prompt(index), prompt_logprobs)
        if options.return_token_ids:
            prompt_token_ids = b',"prompt_token_ids":' + _encode(options.prompt(index))
        return self._chunk(index, options.echo_of(index), logprobs, prompt_token_ids)

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        if self._continuous_usage:
            return self._chunk(index, text, b"null", b"")
        return self._prefixes[index] + _encode(text) + self._suffix

    def delta(self, index: int, delta: ChoiceDelta) -> bytes:
        """Return the chunk of a delta that is not only text."""
        logprobs, token_ids = b"null", b""
        if delta.logprobs:
            tokens = [position.token_ids[0] for position in delta.logprobs]
            logprobs = self._logprobs(index, tokens, list(delta.logprobs))
        if delta.token_ids is not None:
            token_ids = b',"token_ids":' + _encode(delta.token_ids)
        return self._chunk(index, delta.text, logprobs, token_ids)

    def _logprobs(self, index: int, tokens: list[int], positions: list[Logprobs | None]) -> bytes:
        texts, offset = self._options.logprobs, self._offsets[index]
        lists = None if texts is None else texts.completion(tokens, positions, offset)
        if lists is None:
            return b"null"
        if lists.tokens:
            self._offsets[index] = lists.text_offset[-1] + len(lists.tokens[-1])
        return _encode(lists)

    def _chunk(self, index: int, text: str, logprobs: bytes, token_ids: bytes) -> bytes:
        end = b',"logprobs":%s,"finish_reason":null%s}]' % (logprobs, token_ids)
        return self._prefixes[index] + _encode(text) + end + self._tail()
