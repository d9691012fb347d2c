"""Chat completion responses and stream chunks.

A stream's chunks most often differ in a text only, so such a frame is put together from encoded
parts instead of encoding an object per token.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result
from vgate.frontend.apis.openai.chunks import ChunkStream, ResponseOptions
from vgate.frontend.apis.openai.logprobs import ChatLogprobs, LogprobTexts, PromptLogprob
from vgate.frontend.apis.openai.usage import Usage
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode


class ChatResponseOptions(ResponseOptions, frozen=True, kw_only=True):
    """What a client of chat completions wants to see beside.

    Attributes:
        logprobs: Writes log probabilities; None if they weren't asked for.
        top_logprobs: How many at each place.
        prompt_logprobs: How many at each place of the prompt; None if they weren't asked for.
        prompt_token_ids: The prompt, if it was asked for.
        prefix: Text that goes before every answer (``echo``).
        reasons: Whether reasoning is split off.
    """

    logprobs: LogprobTexts | None = None
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    prompt_token_ids: list[int] | None = None
    prefix: str = ""
    reasons: bool = False


class CalledFunction(msgspec.Struct, frozen=True):
    """What a tool call calls."""

    name: str
    arguments: str


class MessageToolCall(msgspec.Struct, frozen=True):
    """A tool call of a message."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True):
    """An assistant's message."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[MessageToolCall] | UnsetType = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True):
    """The response of a request that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    service_tier: None = None
    system_fingerprint: None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatEncoder:
    """Encodes an answer as a chat completion."""

    def __init__(self, options: ChatResponseOptions) -> None:
        self._options = options

    def stream_encoder(self) -> ChatStream:
        """Return what streams one answer."""
        return ChatStream(self._options)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        options, ids = self._options, self._options.prompt_token_ids
        completion = ChatCompletion(
            options.id,
            options.created,
            options.model,
            [self._choice(index, choice) for index, choice in enumerate(answer.choices)],
            Usage.of(answer.counts),
            prompt_logprobs=self._prompt_logprobs(answer.choices[0].prompt_logprobs),
            prompt_token_ids=UNSET if ids is None else ids,
        )
        return _encode(completion)

    def _prompt_logprobs(
        self, places: list[Logprobs | None] | None
    ) -> list[dict[str, PromptLogprob] | None] | UnsetType:
        texts, count = self._options.logprobs, self._options.prompt_logprobs
        if texts is None or count is None or places is None:
            return UNSET
        return texts.prompt(places, count)

    def _choice(self, index: int, choice: ChoiceResult) -> Choice:
        options = self._options
        logprobs = None
        if choice.logprobs is not None and options.logprobs is not None:
            logprobs = options.logprobs.chat(choice.logprobs, options.top_logprobs)
        token_ids = UNSET if choice.token_ids is None else choice.token_ids
        message = _message(choice, options)
        return Choice(index, message, choice.finish_reason, logprobs, choice.stop_reason, token_ids)


def _message(choice: ChoiceResult, options: ChatResponseOptions) -> Message:
    calls = [
        MessageToolCall(call.id, CalledFunction(call.name, call.arguments))
        for call in choice.tool_calls
    ]
    reasoning = (choice.reasoning or None) if options.reasons else UNSET
    text = options.prefix + choice.text
    return Message(
        # Beside tool calls or reasoning, having said nothing is null.
        text if text or not (calls or reasoning) else None,
        tool_calls=calls or UNSET,
        reasoning_content=reasoning,
        reasoning=reasoning,
    )


class ChatStream(ChunkStream):
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`."""

    __slots__ = ("_index", "_options", "_prefix", "_suffix")

    def __init__(self, options: ChatResponseOptions) -> None:
        super().__init__(options, b"chat.completion.chunk")
        self._options = options
        self._suffix = b'},"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        # Of the choice whose text came last; -1 where a chunk is more than prefix, text and suffix.
        self._index = -1
        self._prefix = b""

    def open(self, index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the chunk with the role."""
        options = self._options
        prompt = b""
        if options.prompt_token_ids is not None and index == 0:
            prompt = b',"prompt_token_ids":' + _encode(options.prompt_token_ids)
        delta = b'{"index":%d,"delta":{"role":"assistant","content":%s},"logprobs":null,'
        return (
            self._head
            + delta % (index, _encode(options.prefix))
            + b'"finish_reason":null}]'
            + prompt
            + self._tail()
        )

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        if index != self._index:
            if self._continuous_usage:
                return self.delta(index, ChoiceDelta(text))
            self._index = index
            self._prefix = self._head + b'{"index":%d,"delta":{"content":' % index
        return self._prefix + _encode(text) + self._suffix

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a chunk that is more than text."""
        options = self._options
        choice = b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":null%s}]'
        logprobs = token_ids = b""
        if piece.logprobs and options.logprobs is not None:
            logprobs = _encode(options.logprobs.chat(piece.logprobs, options.top_logprobs))
        if piece.token_ids is not None:
            token_ids = b',"token_ids":' + _encode(piece.token_ids)
        delta = _encode(_delta(piece))
        return self._head + choice % (index, delta, logprobs or b"null", token_ids) + self._tail()

    def finish(
        self, index: int, finish_reason: FinishReason, stop_reason: int | str | None
    ) -> bytes:
        """Return the last chunk of a choice."""
        choice = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%s","stop_reason":%s}]'
        end = choice % (index, finish_reason.encode(), _encode(stop_reason))
        return self._head + end + self._tail()


def _delta(piece: ChoiceDelta) -> dict[str, object]:
    delta: dict[str, object] = {}
    if piece.reasoning:
        # The first name is DeepSeek's and most clients', the second vLLM's newer one.
        delta["reasoning_content"] = delta["reasoning"] = piece.reasoning
    if piece.text or not (piece.reasoning or piece.tool_calls):
        delta["content"] = piece.text
    if piece.tool_calls:
        delta["tool_calls"] = [_call_part(part) for part in piece.tool_calls]
    return delta


def _call_part(part: ToolCallDelta) -> dict[str, object]:
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}
