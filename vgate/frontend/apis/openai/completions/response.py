"""Completion responses and stream chunks (the older API, without a conversation)."""

from typing import Literal

import msgspec

from vgate.frontend.answers import ChoiceDelta, ChoiceResult, FinishReason, Result
from vgate.frontend.apis.openai.chunks import ChunkStream, ResponseFields, Usage
from vgate.frontend.apis.openai.logprobs import CompletionLogprobs, PromptLogprobs, TextOffsets
from vgate.wire.logprobs import Logprobs

_encode = msgspec.json.Encoder().encode


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer. As in vLLM, what was not asked for is null."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: CompletionLogprobs | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(msgspec.Struct, frozen=True):
    """A non-streaming response."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    object: Literal["text_completion"] = "text_completion"
    service_tier: None = None
    system_fingerprint: None = None
    kv_transfer_params: None = None


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

    def logprobs_of(
        self,
        index: int,
        offsets: TextOffsets | None,
        prompt_logprobs: list[Logprobs | None] | None,
        logprobs: list[Logprobs] | None,
    ) -> CompletionLogprobs | None:
        """Return the log probabilities of the next tokens of a choice; None if it has none.

        Those of the prompt come first, with the choice's first tokens, if it is echoed.
        """
        if self.logprobs is None or offsets is None:
            return None
        tokens: list[int] = []
        positions: list[Logprobs | None] = []
        places: list[int] = []
        if self.echo is not None and prompt_logprobs is not None:
            tokens, positions = list(self.prompt(index)), list(prompt_logprobs)
            places = offsets.of_prompt(tokens, self.echo_of(index))
        for position in logprobs or ():
            tokens.append(position.token_id)
            positions.append(position)
            places.append(offsets.of_next(tokens[-1]))
        return self.logprobs.completion(tokens, positions, places)

    def _choice(self, index: int, choice: ChoiceResult) -> CompletionChoice:
        texts, of_prompt = self.logprobs, choice.prompt_logprobs
        offsets = None if texts is None else texts.offsets()
        return CompletionChoice(
            index,
            self.echo_of(index) + choice.text,
            choice.finish_reason,
            self.logprobs_of(index, offsets, of_prompt, choice.logprobs),
            choice.stop_reason,
            None if texts is None else texts.prompt(of_prompt),
            choice.token_ids,
            self.prompt(index) if self.return_token_ids else None,
        )


class CompletionStream(ChunkStream):
    """Encodes the events of one stream; see `vgate.frontend.answers.StreamEncoder`."""

    __slots__ = ("_offsets", "_options", "_prefixes", "_suffix", "_unopened")

    def __init__(self, options: CompletionEncoder) -> None:
        super().__init__(options, b"text_completion")
        self._options = options
        self._suffix = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        # The start of each choice's chunks, once it has begun.
        self._prefixes: dict[int, bytes] = {}
        # The log probabilities of the prompt, until then.
        self._unopened: dict[int, list[Logprobs | None] | None] = {}
        self._offsets: dict[int, TextOffsets] = {}

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return nothing: the prompt is in the chunk of the first token, as in vLLM."""
        self._unopened[index] = prompt_logprobs
        if self._options.logprobs is not None:
            self._offsets[index] = self._options.logprobs.offsets()
        return b""

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        prefix = self._prefixes.get(index)
        if prefix is None or self._continuous_usage:
            return self.delta(index, ChoiceDelta(text))
        return prefix + _encode(text) + self._suffix

    def delta(self, index: int, delta: ChoiceDelta | None, finish_reason: bytes = b"null") -> bytes:
        """Return the chunk of a delta that is not only text."""
        delta, options = delta or ChoiceDelta(""), self._options
        text, of_prompt, more = delta.text, None, b""
        prefix = self._prefixes.get(index)
        if prefix is None:
            self._prefixes[index] = prefix = self._head + b'{"index":%d,"text":' % index
            text, of_prompt = options.echo_of(index) + text, self._unopened.pop(index)
            if options.return_token_ids:
                more = b',"prompt_token_ids":' + _encode(options.prompt(index))
        if delta.token_ids is not None:
            more += b',"token_ids":' + _encode(delta.token_ids)
        lists = None
        if of_prompt or delta.logprobs:
            lists = options.logprobs_of(index, self._offsets.get(index), of_prompt, delta.logprobs)
        end = b',"logprobs":%s,"finish_reason":%s%s}]' % (_encode(lists), finish_reason, more)
        return prefix + _encode(text) + end + self._tail()
