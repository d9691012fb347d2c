"""Events of a streamed answer of the Messages API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.encoder import ChoiceDelta, ToolCallPart
from vgate.frontend.answers.result import FinishReason, TokenCounts
from vgate.frontend.apis.anthropic.errors import error_body
from vgate.frontend.apis.anthropic.messages.stop_reason import SIGNATURE, Usage, stop_of
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode

Kind = Literal["text", "thinking", "tool_use"]

_STARTS: dict[Kind, bytes] = {
    "text": b'{"type":"text","text":"","citations":null}',
    "thinking": b'{"type":"thinking","thinking":"","signature":""}',
    "tool_use": b'{"type":"tool_use","id":%s,"name":%s,"input":{}}',
}
_DELTAS: dict[Kind, bytes] = {
    "text": b'{"type":"text_delta","text":',
    "thinking": b'{"type":"thinking_delta","thinking":',
    "tool_use": b'{"type":"input_json_delta","partial_json":',
}
_DELTA_END = b"}}\n\n"


class MessagesStream:
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`.

    A block is open until another one begins. Text that comes while a tool call is open waits for
    the call's end: more of its arguments may follow.

    Args:
        message_id: The answer's.
        model: The name that it carries.
        request_id: The HTTP request's, for errors.
    """

    __slots__ = (
        "_blocks",
        "_called",
        "_delta",
        "_kind",
        "_message_id",
        "_model",
        "_request_id",
        "_waiting",
        "counts",
    )

    counts: Callable[[], TokenCounts]

    def __init__(self, message_id: str, model: str, request_id: str) -> None:
        self._message_id = message_id
        self._model = model
        self._request_id = request_id
        self._blocks = 0
        self._kind: Kind | None = None
        # How every delta of the open block begins.
        self._delta = b""
        self._waiting: list[str] = []
        self._called = False

    def begin(self) -> bytes:
        """Return the message as it is at its beginning."""
        message = (
            b'{"type":"message_start","message":{"id":%s,"type":"message","role":"assistant",'
            b'"model":%s,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%s}}'
        )
        usage = Usage.of(self.counts())
        shown = message % (_encode(self._message_id), _encode(self._model), _encode(usage))
        return _event(b"message_start", shown)

    def open(self, _index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return nothing: blocks open when there is something in them."""
        return b""

    def text(self, index: int, text: str) -> bytes:
        """Return a delta of text."""
        if self._kind == "text":
            return self._delta + _encode(text) + _DELTA_END
        return self.delta(index, ChoiceDelta(text))

    def delta(self, _index: int, piece: ChoiceDelta) -> bytes:
        """Return the deltas of a piece."""
        out = []
        if piece.reasoning:
            out.append(self._say("thinking", piece.reasoning))
        if piece.text and self._kind == "tool_use":
            self._waiting.append(piece.text)
        elif piece.text:
            out.append(self._say("text", piece.text))
        out += [self._call(part) for part in piece.tool_calls]
        return b"".join(out)

    def finish(
        self, _index: int, finish_reason: FinishReason, stop_reason: int | str | None
    ) -> bytes:
        """Return the end of the last block, why the message ended, and what it cost."""
        out = self._close()
        if not self._blocks:
            # Clients look at the first block without asking whether there is one.
            out += self._start("text", _STARTS["text"]) + self._close()
        reason, sequence = stop_of(finish_reason, stop_reason, called=self._called)
        delta = (
            b'{"type":"message_delta","delta":{"stop_reason":"%s","stop_sequence":%s},"usage":%s}'
        )
        usage = _encode(Usage.of(self.counts()))
        return out + _event(b"message_delta", delta % (reason.encode(), _encode(sequence), usage))

    def end(self) -> bytes:
        """Return the end."""
        return _event(b"message_stop", b'{"type":"message_stop"}')

    def error(self, error: VGateError) -> bytes:
        """Return the event that ends a broken stream. No message_stop follows it."""
        return _event(b"error", error_body(error, self._request_id))

    def _say(self, kind: Kind, text: str) -> bytes:
        """Return text for a block of a kind, the open one or a new one."""
        begun = b""
        if self._kind != kind:
            begun = self._close() + self._start(kind, _STARTS[kind])
        return begun + self._delta + _encode(text) + _DELTA_END

    def _call(self, part: ToolCallPart) -> bytes:
        begun = b""
        if part.name is not None:
            self._called = True
            block = _STARTS["tool_use"] % (_encode(part.id), _encode(part.name))
            begun = self._close() + self._start("tool_use", block)
        if not part.arguments:
            return begun
        return begun + self._delta + _encode(part.arguments) + _DELTA_END

    def _start(self, kind: Kind, block: bytes) -> bytes:
        index = self._blocks
        self._blocks += 1
        self._kind = kind
        head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'
        )
        self._delta = head % index + _DELTAS[kind]
        start = b'{"type":"content_block_start","index":%d,"content_block":%s}'
        return _event(b"content_block_start", start % (index, block))

    def _close(self) -> bytes:
        """Return the end of the open block, and a block of the text that has waited for it."""
        kind, self._kind = self._kind, None
        if kind is None:
            return b""
        index = self._blocks - 1
        out = b""
        if kind == "thinking":
            delta = (
                b'{"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"signature_delta","signature":%s}}'
            )
            out = _event(b"content_block_delta", delta % (index, _encode(SIGNATURE)))
        out += _event(b"content_block_stop", b'{"type":"content_block_stop","index":%d}' % index)
        if not self._waiting:
            return out
        waited = "".join(self._waiting)
        self._waiting.clear()
        return out + self._say("text", waited) + self._close()


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, data)
