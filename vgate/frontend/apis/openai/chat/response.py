"""Chat completion responses and stream chunks.

Most chunks of a stream differ only in their text, so these are put together from encoded parts
instead of encoding an object per token.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.answers import ChoiceDelta, ChoiceResult, FinishReason, Result, ToolCall
from vgate.frontend.apis.openai.chunks import ChunkStream, ResponseFields, Usage
from vgate.frontend.apis.openai.logprobs import ChatLogprobs, PromptLogprobs
from vgate.frontend.apis.openai.tools import custom_input
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.logprobs import Logprobs

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True):
    """An assistant's message. Null is what never has a value here, and clients look for."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    """A non-streaming response."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    service_tier: None = None
    system_fingerprint: None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
    kv_transfer_params: None = None


class ChatEncoder(ResponseFields, frozen=True, kw_only=True):
    """Encodes one answer as a chat completion."""

    # None if the client does not want them.
    prompt_token_ids: list[int] | None = None
    # Text before every answer (`echo`).
    prefix: str = ""
    # Whether reasoning is split off the text.
    reasons: bool = False
    # Names of the custom tools.
    custom: frozenset[str] = frozenset()

    def stream_encoder(self) -> "ChatStream":
        """Return the encoder of a stream."""
        return CustomChatStream(self) if self.custom else ChatStream(self)

    def encode(self, answer: Result) -> bytes:
        """Return the body of a non-streaming response."""
        prompt_logprobs = answer.choices[0].prompt_logprobs
        completion = ChatCompletion(
            self.id,
            self.created,
            self.model,
            [self._choice(index, choice) for index, choice in enumerate(answer.choices)],
            Usage.of(answer.counts),
            prompt_logprobs=self.logprobs.prompt(prompt_logprobs) if self.logprobs else None,
            prompt_token_ids=self.prompt_token_ids,
        )
        return _encode(completion)

    def _choice(self, index: int, choice: ChoiceResult) -> Choice:
        logprobs = None
        if choice.logprobs is not None and self.logprobs is not None:
            logprobs = self.logprobs.chat(choice.logprobs)
        return Choice(
            index,
            self._message(choice),
            choice.finish_reason,
            logprobs,
            choice.stop_reason,
            choice.token_ids,
        )

    def _message(self, choice: ChoiceResult) -> Message:
        calls = [self._call(call) for call in choice.tool_calls]
        reasoning = (choice.reasoning or None) if self.reasons else None
        text = self.prefix + choice.text
        return Message(
            # An empty text is null next to tool calls or reasoning.
            text if text or not (calls or reasoning) else None,
            tool_calls=calls or UNSET,
            reasoning_content=reasoning if self.reasons else UNSET,
            reasoning=reasoning,
        )

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.name in self.custom:
            text = custom_input(call.arguments) if call.arguments else ""
            custom = {"name": call.name, "input": text}
            return {"id": call.id, "custom": custom, "type": "custom"}
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": call.id, "function": function, "type": "function"}


class ChatStream(ChunkStream):
    """Encodes the events of one stream; see `vgate.frontend.answers.StreamEncoder`."""

    __slots__ = ("_begins", "_index", "_options", "_prefix", "_suffix")

    def __init__(self, options: ChatEncoder) -> None:
        super().__init__(options, b"chat.completion.chunk")
        self._options = options
        self._suffix = b'},"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        self._begins = True
        # The choice that `_prefix` belongs to; -1 before the first text.
        self._index = -1
        self._prefix = b""

    def open(self, index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the chunk with the role."""
        options = self._options
        prompt = b""
        if options.prompt_token_ids is not None and index == 0:
            prompt = b',"prompt_token_ids":' + _encode(options.prompt_token_ids)
        choice = (
            b'{"index":%d,"delta":{"role":"assistant","content":%s},"logprobs":null,'
            b'"finish_reason":null}]'
        ) % (index, _encode(options.prefix))
        tail, self._begins = self._tail(begins=self._begins), False
        return self._head + choice + prompt + tail

    def text(self, index: int, text: str) -> bytes:
        """Return a chunk of text."""
        if index != self._index:
            if self._continuous_usage:
                return self.delta(index, ChoiceDelta(text))
            self._index = index
            self._prefix = self._head + b'{"index":%d,"delta":{"content":' % index
        return self._prefix + _encode(text) + self._suffix

    def delta(self, index: int, delta: ChoiceDelta | None, finish_reason: bytes = b"null") -> bytes:
        """Return the chunk of a delta that is not only text."""
        fields, logprobs, token_ids = b"{}", b"null", b""
        if delta is not None:
            if delta.reasoning or delta.tool_calls:
                fields = _encode(_delta(delta))
            else:
                fields = b'{"content":%s}' % _encode(delta.text)
            if delta.logprobs and self._options.logprobs is not None:
                logprobs = _encode(self._options.logprobs.chat(delta.logprobs))
            if delta.token_ids is not None:
                token_ids = b',"token_ids":' + _encode(delta.token_ids)
        choice = b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":%s%s}]'
        choice %= (index, fields, logprobs, finish_reason, token_ids)
        return self._head + choice + self._tail()


class CustomCallDelta(ToolCallDelta, frozen=True):
    """The next part of a custom tool's call; `arguments` is the input's text."""


class CustomCalls:
    """Turns the parts of a stream's calls of custom tools into parts of custom calls.

    The input is one part, because its text is inside of JSON that has to be complete.

    Args:
        names: Of the custom tools.
    """

    __slots__ = ("_names", "_open")

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        # By choice: the custom call that is being made, and its arguments so far.
        self._open: dict[int, tuple[int, list[str]]] = {}

    def read(self, choice: int, calls: Iterable[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
        """Return the parts that are complete with these; other tools' are as they were."""
        found: list[ToolCallDelta] = []
        for call in calls:
            if call.name is not None:
                found += self.end(choice)
                if call.name in self._names:
                    self._open[choice] = (call.index, [])
                    found.append(CustomCallDelta(call.index, call.id, call.name, ""))
            if (opened := self._open.get(choice)) is None:
                found.append(call)
            else:
                opened[1].append(call.arguments)
        return tuple(found)

    def end(self, choice: int) -> tuple[ToolCallDelta, ...]:
        """Return the last part of a choice's open call, if it has one."""
        if choice not in self._open:
            return ()
        index, arguments = self._open.pop(choice)
        text = "".join(arguments)
        return (CustomCallDelta(index, None, None, custom_input(text) if text else ""),)


class CustomChatStream(ChatStream):
    """Encodes a stream in which the model may call custom tools."""

    __slots__ = ("_calls",)

    def __init__(self, options: ChatEncoder) -> None:
        super().__init__(options)
        self._calls = CustomCalls(options.custom)

    def delta(self, index: int, delta: ChoiceDelta | None, finish_reason: bytes = b"null") -> bytes:
        """Return the chunk of a delta; that of a custom call's input comes when it is complete."""
        calls = () if delta is None else self._calls.read(index, delta.tool_calls)
        if finish_reason != b"null":
            calls += self._calls.end(index)
        if delta is not None or calls:
            delta = (delta or ChoiceDelta(""))._replace(tool_calls=calls)
        return super().delta(index, delta, finish_reason)


def _delta(delta: ChoiceDelta) -> dict[str, object]:
    fields: dict[str, object] = {}
    if delta.reasoning:
        # DeepSeek's name, which most clients read, and vLLM's newer one.
        fields["reasoning_content"] = fields["reasoning"] = delta.reasoning
    if delta.text or not (delta.reasoning or delta.tool_calls):
        fields["content"] = delta.text
    if delta.tool_calls:
        fields["tool_calls"] = [_tool_call(call) for call in delta.tool_calls]
    return fields


def _tool_call(call: ToolCallDelta) -> dict[str, object]:
    kind, argument = "function", "arguments"
    if isinstance(call, CustomCallDelta):
        kind, argument = "custom", "input"
    if call.name is None:
        return {"index": call.index, kind: {argument: call.arguments}}
    named = {"name": call.name, argument: call.arguments}
    return {"index": call.index, "id": call.id, "type": kind, kind: named}
