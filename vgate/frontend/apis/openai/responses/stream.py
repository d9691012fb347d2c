"""Answers of the Responses API, whole and as a stream of events about the items of a response.

Events are numbered from 0. The frame of an event with more text is put together from encoded parts,
since those are the most frequent by far.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import FinishReason, Result
from vgate.frontend.apis.block_stream import BlockKind, BlockStream
from vgate.frontend.apis.openai.logprobs import TokenLogprob
from vgate.frontend.apis.openai.responses.response import (
    ItemStatus,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponsesOptions,
    ended_response,
    failed_response,
    new_item_id,
    whole_response,
)
from vgate.frontend.tool_calls import ToolCallDelta

_encode = msgspec.json.Encoder().encode

_FRAME = b"event: %s\ndata: %s\n\n"
# What the deltas of a kind of block are called.
_DELTAS: dict[BlockKind, str] = {
    "reasoning": "response.reasoning_text",
    "text": "response.output_text",
    "tool_call": "response.function_call_arguments",
}


class ResponsesEncoder:
    """Writes answers as responses."""

    def __init__(self, options: ResponsesOptions) -> None:
        self._options = options

    def stream_encoder(self) -> ResponsesStream:
        """Return the encoder of one streamed answer."""
        return ResponsesStream(self._options)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        return whole_response(answer, self._options)


class ResponsesStream(BlockStream):
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`."""

    __slots__ = (
        "_delta",
        "_done",
        "_finish_reason",
        "_item",
        "_logprobs",
        "_next",
        "_options",
        "_shown",
        "_text_delta",
        "_texts",
    )

    def __init__(self, options: ResponsesOptions) -> None:
        super().__init__()
        self._options = options
        self._logprobs = options.text_logprobs()
        self._next = 0
        self._done: list[OutputItem] = []
        self._finish_reason: FinishReason = "stop"
        # The open item without content, its text so far, and the log probabilities shown with it.
        self._item: OutputItem | None = None
        self._texts: list[str] = []
        self._shown: list[TokenLogprob] = []
        # How every delta of the open item begins; None where a text's deltas have more than text.
        self._delta = b""
        self._text_delta: bytes | None = None

    def begin(self) -> bytes:
        """Return the two events that a response begins with."""
        response = self._options.response
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def text(self, _index: int, text: str) -> bytes:
        """Return the event of more text, and before the first one those that begin its item."""
        head = self._text_delta
        if head is None:
            return self._write_text(text)
        self._texts.append(text)
        number = self._next
        self._next = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (head, _encode(text), number)

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return the events of a piece that is more than text."""
        if self._logprobs is not None and piece.logprobs:
            self._logprobs.feed(piece.logprobs)
        return super().delta(index, piece)

    def finish(
        self, _index: int, finish_reason: FinishReason, _stop_reason: int | str | None
    ) -> bytes:
        """Return the end of the last item. An answer without any has an empty message."""
        self._finish_reason = finish_reason
        begun = self._last_block()
        if self._logprobs is not None and self._kind == "text" and not self._called:
            self._shown += self._logprobs.rest(self.counts().reasoning)
        return begun + self._end_block("incomplete" if finish_reason == "length" else "completed")

    def end(self) -> bytes:
        """Return the event with the whole response."""
        response = ended_response(self._options, self._done, self.counts(), self._finish_reason)
        return self._event(f"response.{response.status}", response=response)

    def error(self, error: VGateError) -> bytes:
        """Return the two events that end a broken stream: the error, and what there is."""
        out = self._release()
        out += self._event("error", code=error.code, message=error.message, param=error.param)
        output = self._done if self._kind is None else [*self._done, self._filled("incomplete")]
        response = failed_response(self._options.response, output, error)
        return out + self._event("response.failed", response=response)

    def _add(self, text: str) -> bytes:
        self._texts.append(text)
        if self._kind == "text" and self._logprobs is not None:
            shown = self._logprobs.take(text, self.counts().reasoning)
            self._shown += shown
            name = f"{_DELTAS['text']}.delta"
            return self._event(name, **self._place(), delta=text, logprobs=shown)
        number = self._next
        self._next += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._delta, _encode(text), number)

    def _begin_block(self, kind: BlockKind, call: ToolCallDelta | None) -> bytes:
        self._item = _new_item(kind, call)
        index, place = len(self._done), self._place()
        begun = self._event("response.output_item.added", output_index=index, item=self._item)
        if kind != "tool_call":
            part = OutputText("") if kind == "text" else ReasoningText("")
            begun += self._event("response.content_part.added", **place, part=part)
        name = f"{_DELTAS[kind]}.delta"
        more: dict[str, Any] = {"logprobs": []} if kind == "text" else {}
        head = _encode({"type": name, **place, **more})[:-1] + b',"delta":'
        self._delta = b"event: %s\ndata: %s" % (name.encode(), head)
        if kind == "text" and self._logprobs is None:
            self._text_delta = self._delta
        return begun

    def _end_block(self, status: ItemStatus = "completed") -> bytes:
        item, name, text = self._filled(status), _DELTAS[self._kind or "text"], "".join(self._texts)
        index, place = len(self._done), self._place()
        if isinstance(item, OutputFunctionCall):
            out = self._event(f"{name}.done", **place, name=item.name, arguments=text)
        else:
            more = {"logprobs": self._shown} if isinstance(item, OutputMessage) else {}
            out = self._event(f"{name}.done", **place, text=text, **more)
            out += self._event("response.content_part.done", **place, part=item.content[0])
        self._done.append(item)
        self._text_delta, self._texts, self._shown = None, [], []
        return out + self._event("response.output_item.done", output_index=index, item=item)

    def _filled(self, status: ItemStatus) -> OutputItem:
        """Return the open item with its content."""
        assert self._item is not None
        text = "".join(self._texts)
        content: dict[str, Any]
        if isinstance(self._item, OutputMessage):
            content = {"content": [OutputText(text, self._shown)]}
        elif isinstance(self._item, OutputReasoning):
            content = {"content": [ReasoningText(text)]}
        else:
            content = {"arguments": text}
        return msgspec.structs.replace(self._item, status=status, **content)

    def _place(self) -> dict[str, Any]:
        """Return where in the output an event about the content of the open item is."""
        assert self._item is not None
        place: dict[str, Any] = {"item_id": self._item.id, "output_index": len(self._done)}
        return place if self._kind == "tool_call" else {**place, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._next
        self._next += 1
        data = _encode({"type": kind, "sequence_number": number, **fields})
        return _FRAME % (kind.encode(), data)


def _new_item(kind: BlockKind, call: ToolCallDelta | None) -> OutputItem:
    """Return an item without content."""
    if call is not None:
        name = new_item_id("fc")
        return OutputFunctionCall(name, "in_progress", call.id or "", call.name or "", "")
    if kind == "text":
        return OutputMessage(new_item_id("msg"), "in_progress", [])
    return OutputReasoning(new_item_id("rs"), "in_progress", [])
