"""Responses of the Messages API, streaming and not."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, Self

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers import ChoiceResult, FinishReason, Result, TokenCounts
from vgate.frontend.apis.anthropic.errors import error_body
from vgate.frontend.apis.block_stream import BlockKind, BlockStream
from vgate.frontend.ids import new_id
from vgate.frontend.tool_calls import ToolCallDelta

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

# Nothing is signed: reasoning comes back as text. But some clients drop thinking without a
# signature.
SIGNATURE = "unsigned"

# Anthropic's documentation tells clients to wrap arguments that aren't JSON under this key, so that
# the model sees them (its page on fine-grained tool streaming).
INVALID_KEY = "INVALID_JSON"

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode

_BLOCKS: dict[BlockKind, bytes] = {
    "text": b'{"type":"text","text":""}',
    "reasoning": b'{"type":"thinking","thinking":"","signature":""}',
    "tool_call": b'{"type":"tool_use","id":%s,"name":%s,"input":{}}',
}
_DELTAS: dict[BlockKind, bytes] = {
    "text": b'{"type":"text_delta","text":',
    "reasoning": b'{"type":"thinking_delta","thinking":',
    "tool_call": b'{"type":"input_json_delta","partial_json":',
}
_DELTA_START = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
)
_DELTA_END = b"}}\n\n"


class TextOutput(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A block of text."""

    text: str


class ThinkingOutput(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """A block of reasoning."""

    thinking: str
    signature: str = SIGNATURE


class ToolUseOutput(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A block with a tool call."""

    id: str
    name: str
    input: msgspec.Raw


class MessagesUsage(msgspec.Struct, frozen=True):
    """Token counts; `input_tokens` leaves out the prompt tokens that were cached."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: dict[Literal["thinking_tokens"], int]

    @classmethod
    def of(cls, counts: TokenCounts) -> Self:
        """Return the counts as Anthropic reports them."""
        details: dict[Literal["thinking_tokens"], int] = {"thinking_tokens": counts.reasoning}
        return cls(counts.prompt - counts.cached, 0, counts.cached, counts.completion, details)


class MessagesResponse(msgspec.Struct, frozen=True):
    """A non-streaming response."""

    id: str
    model: str
    content: list[TextOutput | ThinkingOutput | ToolUseOutput]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: MessagesUsage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class MessagesEncoder:
    """Encodes an answer as a message. The HTTP request's id is for errors."""

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id

    def stream_encoder(self) -> "MessagesStream":
        """Return the encoder of one streamed answer."""
        return MessagesStream(self._model, self._request_id)

    def encode(self, answer: Result) -> bytes:
        """Return the body of a non-streaming response."""
        (choice,) = answer.choices
        reason, sequence = stop_of(
            choice.finish_reason, choice.stop_reason, called=bool(choice.tool_calls)
        )
        usage, content = MessagesUsage.of(answer.counts), _content(choice)
        return _encode(
            MessagesResponse(new_id("msg_"), self._model, content, reason, sequence, usage)
        )


def _content(choice: ChoiceResult) -> list[TextOutput | ThinkingOutput | ToolUseOutput]:
    content: list[TextOutput | ThinkingOutput | ToolUseOutput] = []
    if choice.reasoning:
        content.append(ThinkingOutput(choice.reasoning))
    if choice.text:
        content.append(TextOutput(choice.text))
    content += [
        ToolUseOutput(call.id, call.name, tool_input(call.arguments)) for call in choice.tool_calls
    ]
    # Clients read the first block without checking that there is one.
    return content or [TextOutput("")]


def stop_of(
    finish_reason: FinishReason, stop_reason: int | str | None, *, called: bool
) -> tuple[StopReason, str | None]:
    """Return why an answer ended, and the client's stop sequence if that ended it."""
    if finish_reason == "length":
        return "max_tokens", None
    if isinstance(stop_reason, str):
        return "stop_sequence", stop_reason
    return ("tool_use" if called else "end_turn"), None


def tool_input(arguments: str) -> msgspec.Raw:
    """Return a call's arguments as a JSON object, whatever the model wrote.

    Truncated arguments keep what is complete, as in the client library's stream. Text that is no
    JSON object is wrapped in one, so that no tool runs with made-up arguments.
    """
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    try:
        _decode_object(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return msgspec.Raw(_completed(arguments) or _encode({INVALID_KEY: arguments}))
    return msgspec.Raw(arguments.encode())


def _completed(text: str) -> bytes | None:
    """Return the complete part of a truncated object; None if the text isn't one."""
    # Only a call that was cut off comes here, and most workers never see one.
    import jiter

    parse = partial(jiter.from_json, text.encode(), allow_inf_nan=False, cache_mode="none")
    # The partial mode also accepts wrong text after a complete object, such as `{"a": 1}}`.
    if not text.lstrip().startswith("{") or not _is_truncated(parse):
        return None
    try:
        # Keeps integers of any size. A float may be too large for JSON.
        return json.dumps(parse(partial_mode=True), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None


def _is_truncated(parse: Callable[[], Any]) -> bool:
    try:
        parse()
    except ValueError as error:
        return str(error).startswith("EOF while parsing")
    return False


class MessagesStream(BlockStream):
    """Builds the events of one stream; see `vgate.frontend.answers.StreamEncoder`."""

    __slots__ = ("_blocks", "_delta", "_model", "_request_id")

    keep_alive: ClassVar[bytes] = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, model: str, request_id: str) -> None:
        super().__init__()
        self._model = model
        self._request_id = request_id
        self._blocks = 0
        # The start of every delta of the open block.
        self._delta = b""

    def begin(self) -> bytes:
        """Return the event with the message so far, which has no content."""
        message = (
            b'{"type":"message_start","message":{"id":%s,"type":"message","role":"assistant",'
            b'"model":%s,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%s}}'
        )
        counts = self.counts()
        # A stored answer is complete, but the stream that replays it has yet to begin.
        usage = _encode(MessagesUsage.of(TokenCounts(counts.prompt, 0, counts.cached)))
        begun = message % (_encode(new_id("msg_")), _encode(self._model), usage)
        return _event(b"message_start", begun)

    def text(self, _index: int, text: str) -> bytes:
        """Return a delta of text."""
        if self._kind == "text":
            return self._delta + _encode(text) + _DELTA_END
        return self._write_text(text)

    def _finish(self, finish_reason: FinishReason, stop_reason: int | str | None) -> bytes:
        """Return the end of the last block, the stop reason and the token counts."""
        out = self._last_block() + self._end_block()
        reason, sequence = stop_of(finish_reason, stop_reason, called=self._called)
        delta = (
            b'{"type":"message_delta","delta":{"stop_reason":"%s","stop_sequence":%s},"usage":%s}'
        )
        usage = _encode(MessagesUsage.of(self.counts()))
        return out + _event(b"message_delta", delta % (reason.encode(), _encode(sequence), usage))

    def end(self) -> bytes:
        """Return the last event of a complete answer."""
        return _event(b"message_stop", b'{"type":"message_stop"}')

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No message_stop follows it."""
        return _event(b"error", error_body(error, self._request_id))

    def _add(self, text: str) -> bytes:
        return self._delta + _encode(text) + _DELTA_END

    def _begin_block(self, kind: BlockKind, call: ToolCallDelta | None) -> bytes:
        block, index = _BLOCKS[kind], self._blocks
        if call is not None:
            block %= (_encode(call.id), _encode(call.name))
        self._blocks += 1
        self._delta = _DELTA_START % index + _DELTAS[kind]
        start = b'{"type":"content_block_start","index":%d,"content_block":%s}'
        return _event(b"content_block_start", start % (index, block))

    def _end_block(self) -> bytes:
        index = self._blocks - 1
        out = b""
        if self._kind == "reasoning":
            signature = b'{"type":"signature_delta","signature":%s' % _encode(SIGNATURE)
            out = _DELTA_START % index + signature + _DELTA_END
        stop = b'{"type":"content_block_stop","index":%d}' % index
        return out + _event(b"content_block_stop", stop)


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, data)
