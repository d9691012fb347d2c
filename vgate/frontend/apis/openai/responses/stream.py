"""Streams of the Responses API: events about the items of a response, numbered from 0.

One item is open at a time. An event's frame is put together from encoded parts where it is one of
many, which are the ones that bring more text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from vgate.errors import VGateError
from vgate.frontend.answers.encoder import ChoiceDelta, ToolCallPart
from vgate.frontend.answers.result import FinishReason, Result, TokenCounts
from vgate.frontend.apis.openai.logprobs import TokenLogprob
from vgate.frontend.apis.openai.responses.response import (
    FunctionCall,
    Item,
    ItemStatus,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    ResponsesOptions,
    new_id,
    whole_response,
)
from vgate.wire.messages import Logprobs

_encode = msgspec.json.Encoder().encode

_FRAME = b"event: %s\ndata: %s\n\n"
_TEXT = "response.output_text"
_REASONING = "response.reasoning_text"
_ARGUMENTS = "response.function_call_arguments"


class ResponsesEncoder:
    """Says answers as responses."""

    def __init__(self, form: ResponsesOptions) -> None:
        self._form = form

    def stream_encoder(self) -> ResponsesStream:
        """Return what streams one answer."""
        return ResponsesStream(self._form)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        return whole_response(answer, self._form)


class _Open(NamedTuple):
    """The item that is being made.

    Attributes:
        kind: What its deltas are called.
        empty: The item without content.
        delta: The beginning of the frame of a delta, up to its text.
    """

    kind: str
    empty: Item
    delta: bytes


class ResponsesStream:
    """Builds the events of one stream; see `vgate.frontend.answers.encoder.StreamEncoder`.

    Text that comes while a tool call is open waits for the call's end: more of its arguments may
    follow.
    """

    __slots__ = (
        "_done",
        "_finish_reason",
        "_logprobs",
        "_next",
        "_open",
        "_response",
        "_shown",
        "_text_head",
        "_texts",
        "_waiting",
        "counts",
    )

    counts: Callable[[], TokenCounts]

    def __init__(self, form: ResponsesOptions) -> None:
        self._response = form.response.begun()
        self._logprobs = form.text_logprobs()
        self._next = 0
        self._done: list[Item] = []
        self._open: _Open | None = None
        # The open item's `delta`, once it is a message whose deltas are nothing but text.
        self._text_head: bytes | None = None
        # Of the open item: its text so far, and the log probabilities that were told of it.
        self._texts: list[str] = []
        self._shown: list[TokenLogprob] = []
        self._waiting: list[str] = []
        self._finish_reason: FinishReason = "stop"

    def begin(self) -> bytes:
        """Return the two events that a response begins with."""
        created = self._event("response.created", response=self._response)
        return created + self._event("response.in_progress", response=self._response)

    def open(self, _index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return nothing: items begin with what is in them."""
        return b""

    def text(self, _index: int, text: str) -> bytes:
        """Return the event of more text, and before the first one those that begin its item."""
        head = self._text_head
        if head is None:
            return self._more_text(text)
        self._texts.append(text)
        number = self._next
        self._next = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (head, _encode(text), number)

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return the events of a piece that is more than text."""
        if self._logprobs is not None and piece.logprobs:
            self._logprobs.feed(piece.logprobs)
        out = []
        if piece.reasoning:
            if self._open is None or self._open.kind != _REASONING:
                out.append(self._open_reasoning())
            out.append(self._delta(piece.reasoning))
        if piece.text and self._open is not None and self._open.kind == _ARGUMENTS:
            self._waiting.append(piece.text)
        elif piece.text:
            out.append(self.text(index, piece.text))
        for part in piece.tool_calls:
            if part.name is not None:
                out.append(self._open_call(part))
            if part.arguments:
                out.append(self._delta(part.arguments))
        return b"".join(out)

    def finish(
        self, _index: int, finish_reason: FinishReason, _stop_reason: int | str | None
    ) -> bytes:
        """Return the end of the last item. An answer without any has an empty message."""
        self._finish_reason = finish_reason
        begun = self._release() if self._open is not None else self._open_message()
        called = any(isinstance(item, FunctionCall) for item in self._done)
        only_text = not called and self._open is not None and self._open.kind == _TEXT
        if self._logprobs is not None and only_text:
            self._shown += self._logprobs.rest(self.counts().reasoning)
        return begun + self._close("incomplete" if finish_reason == "length" else "completed")

    def end(self) -> bytes:
        """Return the event with the whole response."""
        response = self._response.ended(self._done, self.counts(), self._finish_reason)
        return self._event(f"response.{response.status}", response=response)

    def error(self, error: VGateError) -> bytes:
        """Return the two events that end a broken stream: what happened, and what there is."""
        told = self._release()
        told += self._event("error", code=error.code, message=error.message, param=error.param)
        output = self._done if self._open is None else [*self._done, self._item("incomplete")]
        return told + self._event("response.failed", response=self._response.failed(output, error))

    def _more_text(self, text: str) -> bytes:
        begun = b"" if self._open is not None and self._open.kind == _TEXT else self._open_message()
        assert self._open is not None
        if self._logprobs is None:
            self._text_head = self._open.delta
            return begun + self._delta(text)
        self._texts.append(text)
        shown = self._logprobs.take(text, self.counts().reasoning)
        self._shown += shown
        place = self._place(self._open.empty)
        more = self._event(f"{_TEXT}.delta", **place, content_index=0, delta=text, logprobs=shown)
        return begun + more

    def _open_message(self) -> bytes:
        item = Message(new_id("msg"), "in_progress", [])
        return self._begin_item(_TEXT, item, OutputText(""), logprobs=[])

    def _open_reasoning(self) -> bytes:
        item = Reasoning(new_id("rs"), "in_progress", [])
        return self._begin_item(_REASONING, item, ReasoningText(""))

    def _open_call(self, part: ToolCallPart) -> bytes:
        begun = self._release()
        item = FunctionCall(new_id("fc"), "in_progress", part.id or "", part.name or "", "")
        return begun + self._begin_item(_ARGUMENTS, item)

    def _release(self) -> bytes:
        """Return the text that has waited for a call's end: in a message, which ends the call."""
        if not self._waiting:
            return b""
        waited = "".join(self._waiting)
        self._waiting.clear()
        return self.text(0, waited)

    def _begin_item(
        self, kind: str, item: Item, part: OutputText | ReasoningText | None = None, **fields: Any
    ) -> bytes:
        """Return the events that begin an item, after those that end the one before.

        Args:
            kind: What its deltas are called.
            item: The item without content.
            part: The only part that its content will have.
            fields: What all its deltas have besides text.
        """
        out = [b"" if self._open is None else self._close("completed")]
        place = self._place(item)
        out.append(
            self._event("response.output_item.added", output_index=place["output_index"], item=item)
        )
        if part is not None:
            place["content_index"] = 0
            out.append(self._event("response.content_part.added", **place, part=part))
        head = _encode({"type": f"{kind}.delta", **place, **fields})[:-1] + b',"delta":'
        self._open = _Open(kind, item, b"event: %s.delta\ndata: %s" % (kind.encode(), head))
        return b"".join(out)

    def _delta(self, text: str) -> bytes:
        """Return the event of more text of the open item."""
        assert self._open is not None
        self._texts.append(text)
        number = self._next
        self._next += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._open.delta, _encode(text), number)

    def _close(self, status: ItemStatus) -> bytes:
        """Return the events that end the open item."""
        assert self._open is not None
        kind, text, item = self._open.kind, "".join(self._texts), self._item(status)
        place = self._place(item)
        if isinstance(item, FunctionCall):
            out = [self._event(f"{kind}.done", **place, name=item.name, arguments=text)]
        else:
            place["content_index"] = 0
            more = {"logprobs": self._shown} if isinstance(item, Message) else {}
            out = [
                self._event(f"{kind}.done", **place, text=text, **more),
                self._event("response.content_part.done", **place, part=item.content[0]),
            ]
        out.append(
            self._event("response.output_item.done", output_index=place["output_index"], item=item)
        )
        self._done.append(item)
        self._open, self._text_head, self._texts, self._shown = None, None, [], []
        return b"".join(out)

    def _item(self, status: ItemStatus) -> Item:
        """Return the open item with what is in it."""
        assert self._open is not None
        item, text = self._open.empty, "".join(self._texts)
        content: dict[str, Any]
        if isinstance(item, Message):
            content = {"content": [OutputText(text, self._shown)]}
        elif isinstance(item, Reasoning):
            content = {"content": [ReasoningText(text)]}
        else:
            content = {"arguments": text}
        return msgspec.structs.replace(item, status=status, **content)

    def _place(self, item: Item) -> dict[str, Any]:
        """Return where in the output an event about the open item is."""
        return {"item_id": item.id, "output_index": len(self._done)}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._next
        self._next += 1
        data = _encode({"type": kind, "sequence_number": number, **fields})
        return _FRAME % (kind.encode(), data)
