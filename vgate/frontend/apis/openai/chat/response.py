"""Chat completion responses and stream chunks.

A stream's chunks most often differ in a text only, so such a frame is put together from encoded
parts instead of encoding an object per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from vgate.errors import VGateError
from vgate.frontend.answers.encoder import ChoiceDelta, ToolCallPart
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result, TokenCounts
from vgate.frontend.apis.openai.errors import error_body
from vgate.frontend.apis.openai.logprobs import ChatLogprobs, LogprobTexts, PromptLogprob
from vgate.frontend.apis.openai.usage import Usage
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


class ChatResponseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to see of its answer.

    Attributes:
        id, created, model: Of the answer; `created` is Unix time.
        include_usage, continuous_usage: Whether a stream ends with the usage, and whether every
            chunk has it.
        logprobs: Writes log probabilities; None if they weren't asked for.
        top_logprobs: How many at each place.
        prompt_logprobs: How many at each place of the prompt; None if they weren't asked for.
        prompt_token_ids: The prompt, if it was asked for.
        prefix: Text that goes before every answer (``echo``).
        reasons: Whether reasoning is split off.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    continuous_usage: bool = False
    logprobs: LogprobTexts | None = None
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    prompt_token_ids: list[int] | None = None
    prefix: str = ""
    reasons: bool = False


class Function(msgspec.Struct, frozen=True):
    """What a tool call calls."""

    name: str
    arguments: str


class MessageToolCall(msgspec.Struct, frozen=True):
    """A tool call of a message."""

    id: str
    function: Function
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
    """Says answers as chat completions."""

    def __init__(self, form: ChatResponseOptions) -> None:
        self._form = form

    def stream_encoder(self) -> ChatStream:
        """Return what streams one answer."""
        return ChatStream(self._form)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        form = self._form
        prompt_logprobs = answer.choices[0].prompt_logprobs
        completion = ChatCompletion(
            form.id,
            form.created,
            form.model,
            [self._choice(index, choice) for index, choice in enumerate(answer.choices)],
            Usage.of(answer.counts),
            prompt_logprobs=UNSET
            if form.prompt_logprobs is None or form.logprobs is None or prompt_logprobs is None
            else form.logprobs.prompt(prompt_logprobs, form.prompt_logprobs),
            prompt_token_ids=UNSET if form.prompt_token_ids is None else form.prompt_token_ids,
        )
        return _encode(completion)

    def _choice(self, index: int, choice: ChoiceResult) -> Choice:
        form = self._form
        logprobs = None
        if choice.logprobs is not None and form.logprobs is not None:
            logprobs = form.logprobs.chat(choice.logprobs, form.top_logprobs)
        token_ids = UNSET if choice.token_ids is None else choice.token_ids
        message = _message(choice, form)
        return Choice(index, message, choice.finish_reason, logprobs, choice.stop_reason, token_ids)


def _message(choice: ChoiceResult, form: ChatResponseOptions) -> Message:
    calls = [
        MessageToolCall(call.id, Function(call.name, call.arguments)) for call in choice.tool_calls
    ]
    reasoning = (choice.reasoning or None) if form.reasons else UNSET
    text = form.prefix + choice.text
    return Message(
        # Beside tool calls or reasoning, having said nothing is null.
        text if text or not (calls or reasoning) else None,
        tool_calls=calls or UNSET,
        reasoning_content=reasoning,
        reasoning=reasoning,
    )


class ChatStream:
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`."""

    __slots__ = (
        "_form",
        "_head",
        "_index",
        "_prefix",
        "_suffix",
        "_usage",
        "counts",
    )

    counts: Callable[[], TokenCounts]

    def __init__(self, form: ChatResponseOptions) -> None:
        self._form = form
        head = (
            b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,'
            b'"system_fingerprint":null,"choices":['
        )
        self._head = head % (_encode(form.id), form.created, _encode(form.model))
        # OpenAI's chunks carry "usage": null before the one that has it.
        self._usage = b',"usage":null' if form.include_usage else b""
        self._suffix = b'},"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        # Of the choice whose text came last; -1 where a chunk is more than prefix, text and suffix.
        self._index = -1
        self._prefix = b""

    def begin(self) -> bytes:
        """Return nothing: the choices say it all."""
        return b""

    def open(self, index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the chunk with the role."""
        form = self._form
        prompt = b""
        if form.prompt_token_ids is not None and index == 0:
            prompt = b',"prompt_token_ids":' + _encode(form.prompt_token_ids)
        delta = b'{"index":%d,"delta":{"role":"assistant","content":%s},"logprobs":null,'
        return (
            self._head
            + delta % (index, _encode(form.prefix))
            + b'"finish_reason":null}]'
            + self._tail(prompt)
        )

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        if index != self._index:
            if self._form.continuous_usage:
                return self.delta(index, ChoiceDelta(text))
            self._index = index
            self._prefix = self._head + b'{"index":%d,"delta":{"content":' % index
        return self._prefix + _encode(text) + self._suffix

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a chunk that is more than text."""
        form = self._form
        choice = b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":null%s}]'
        logprobs = token_ids = b""
        if piece.logprobs and form.logprobs is not None:
            logprobs = _encode(form.logprobs.chat(piece.logprobs, form.top_logprobs))
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

    def end(self) -> bytes:
        """Return the usage, if it is wanted, and the end."""
        if not self._form.include_usage:
            return DONE
        return self._head + b'],"usage":' + _encode(Usage.of(self.counts())) + b"}\n\n" + DONE

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No [DONE] follows it."""
        return b"data: " + error_body(error) + b"\n\n"

    def _tail(self, more: bytes = b"") -> bytes:
        """Return what follows the choices."""
        usage = self._usage
        if self._form.continuous_usage:
            usage = b',"usage":' + _encode(Usage.of(self.counts()))
        return more + usage + b"}\n\n"


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


def _call_part(part: ToolCallPart) -> dict[str, object]:
    if part.name is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}
