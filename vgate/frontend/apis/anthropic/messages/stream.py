"""Answers of the Messages API, whole and as a stream of events."""

from __future__ import annotations

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.result import FinishReason, Result
from vgate.frontend.apis.anthropic.errors import error_body
from vgate.frontend.apis.anthropic.messages.response import (
    SIGNATURE,
    MessagesUsage,
    new_message_id,
    stop_of,
    whole_message,
)
from vgate.frontend.apis.block_stream import BlockKind, BlockStream
from vgate.frontend.tool_calls import ToolCallDelta

_encode = msgspec.json.Encoder().encode

_BLOCKS: dict[BlockKind, bytes] = {
    "text": b'{"type":"text","text":"","citations":null}',
    "reasoning": b'{"type":"thinking","thinking":"","signature":""}',
    "tool_call": b'{"type":"tool_use","id":%s,"name":%s,"input":{}}',
}
_DELTAS: dict[BlockKind, bytes] = {
    "text": b'{"type":"text_delta","text":',
    "reasoning": b'{"type":"thinking_delta","thinking":',
    "tool_call": b'{"type":"input_json_delta","partial_json":',
}
_DELTA_END = b"}}\n\n"


class MessagesEncoder:
    """Writes answers as messages.

    Args:
        model: The name that the answer carries.
        request_id: The HTTP request's, for errors.
    """

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id

    def stream_encoder(self) -> MessagesStream:
        """Return the encoder of one streamed answer."""
        return MessagesStream(new_message_id(), self._model, self._request_id)

    def encode(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        return whole_message(answer, self._model)


class MessagesStream(BlockStream):
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`.

    Args:
        message_id: The answer's.
        model: The name that it carries.
        request_id: The HTTP request's, for errors.
    """

    __slots__ = ("_blocks", "_delta", "_message_id", "_model", "_request_id")

    def __init__(self, message_id: str, model: str, request_id: str) -> None:
        super().__init__()
        self._message_id = message_id
        self._model = model
        self._request_id = request_id
        self._blocks = 0
        # How every delta of the open block begins.
        self._delta = b""

    def begin(self) -> bytes:
        """Return the message as it is at its beginning."""
        message = (
            b'{"type":"message_start","message":{"id":%s,"type":"message","role":"assistant",'
            b'"model":%s,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%s}}'
        )
        usage = _encode(MessagesUsage.of(self.counts()))
        begun = message % (_encode(self._message_id), _encode(self._model), usage)
        return _event(b"message_start", begun)

    def text(self, _index: int, text: str) -> bytes:
        """Return a delta of text."""
        if self._kind == "text":
            return self._delta + _encode(text) + _DELTA_END
        return self._write_text(text)

    def finish(
        self, _index: int, finish_reason: FinishReason, stop_reason: int | str | None
    ) -> bytes:
        """Return the end of the last block, why the message ended, and its token counts."""
        out = self._last_block() + self._end_block()
        reason, sequence = stop_of(finish_reason, stop_reason, called=self._called)
        delta = (
            b'{"type":"message_delta","delta":{"stop_reason":"%s","stop_sequence":%s},"usage":%s}'
        )
        usage = _encode(MessagesUsage.of(self.counts()))
        return out + _event(b"message_delta", delta % (reason.encode(), _encode(sequence), usage))

    def end(self) -> bytes:
        """Return the end."""
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
        head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
        )
        self._delta = head % index + _DELTAS[kind]
        start = b'{"type":"content_block_start","index":%d,"content_block":%s}'
        return _event(b"content_block_start", start % (index, block))

    def _end_block(self) -> bytes:
        index = self._blocks - 1
        out = b""
        if self._kind == "reasoning":
            delta = (
                b'{"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"signature_delta","signature":%s}}'
            )
            out = _event(b"content_block_delta", delta % (index, _encode(SIGNATURE)))
        return out + _event(
            b"content_block_stop", b'{"type":"content_block_stop","index":%d}' % index
        )


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, data)
