"""The encoders of the Responses API.

A stream is a sequence of events about the items of a response, numbered from 0. Most events carry
more text, so these are put together from encoded parts.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from vgate.errors import RateLimitedError, VGateError
from vgate.frontend.answers import ChoiceDelta, FinishReason, Result, TokenCounts
from vgate.frontend.apis.block_stream import BlockKind, BlockStream
from vgate.frontend.apis.openai.logprobs import LogprobTexts, TokenLogprob
from vgate.frontend.apis.openai.responses.response import (
    ItemStatus,
    OutputCustomCall,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseObject,
    ResponsesUsage,
    TextLogprobs,
    call_item,
    output_of,
)
from vgate.frontend.apis.openai.responses.tools import CustomTool, Tool
from vgate.frontend.http import HttpRequest
from vgate.frontend.ids import new_id
from vgate.frontend.tool_calls import ToolCallDelta

_encode = msgspec.json.Encoder().encode

# The first part of an event's name, before ".delta" or ".done".
_EVENTS: dict[BlockKind, str] = {
    "reasoning": "response.reasoning_text",
    "text": "response.output_text",
    "tool_call": "response.function_call_arguments",
}
_ID_PREFIXES: dict[BlockKind, str] = {"reasoning": "rs_", "text": "msg_", "tool_call": "fc_"}


class ResponsesEncoder(msgspec.Struct, frozen=True):
    """Encodes one answer as a response."""

    # Without the answer.
    response: ResponseObject
    # Returns the Unix time in seconds.
    clock: Callable[[], float]
    logprobs: LogprobTexts | None = None
    # The request's tools by the names that the model sees.
    tools: dict[str, Tool] = {}
    # Called with the response when it is complete; returns whether it will be stored.
    on_finished: Callable[[ResponseObject], bool] | None = None

    def stream_encoder(self) -> "ResponsesStream":
        """Return the encoder of a stream."""
        return ResponsesStream(self)

    def encode(self, answer: Result) -> bytes:
        """Return the body of a non-streaming response."""
        choice, counts = answer.choices[0], answer.counts
        logprobs = None if self.logprobs is None else TextLogprobs(self.logprobs)
        output = output_of(choice, counts.reasoning, logprobs, self.tools)
        return _encode(self.finished(output, counts, choice.finish_reason))

    def finished(
        self, output: list[OutputItem], counts: TokenCounts, finish_reason: FinishReason
    ) -> ResponseObject:
        """Return the response with its answer."""
        cut = finish_reason == "length"
        response = msgspec.structs.replace(
            self.response,
            completed_at=None if cut else int(self.clock()),
            status="incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=output,
            usage=ResponsesUsage.of(counts),
        )
        if self.on_finished is not None and not self.on_finished(response):
            response = msgspec.structs.replace(response, store=False)
        return response


def responses_event(_http: HttpRequest, error: VGateError) -> bytes:
    """Return the event that ends a stream before it has a response."""
    problem = {"code": error.code, "message": error.message, "param": error.param}
    data = _encode({"type": "error", "sequence_number": 0, **problem})
    return b"event: error\ndata: " + data + b"\n\n"


class ResponsesStream(BlockStream):
    """Encodes the events of one stream; see `vgate.frontend.answers.StreamEncoder`."""

    __slots__ = (
        "_call",
        "_done",
        "_encoder",
        "_finish_reason",
        "_id",
        "_is_custom",
        "_logprobs",
        "_next",
        "_prefix",
        "_text_prefix",
        "_texts",
        "_tokens",
    )

    def __init__(self, encoder: ResponsesEncoder) -> None:
        super().__init__()
        self._encoder = encoder
        self._logprobs = None if encoder.logprobs is None else TextLogprobs(encoder.logprobs)
        # The number of the next event.
        self._next = 0
        self._done: list[OutputItem] = []
        self._finish_reason: FinishReason = "stop"
        # Of the open item: its id, its tool call, its text so far and the log probabilities of it.
        self._id = ""
        self._call: ToolCallDelta | None = None
        self._is_custom = False
        self._texts: list[str] = []
        self._tokens: list[TokenLogprob] = []
        # The start of every delta of the open item; the second is None unless the item is a text
        # without log probabilities.
        self._prefix = b""
        self._text_prefix: bytes | None = None

    def begin(self) -> bytes:
        """Return the two events that a response begins with."""
        response = self._encoder.response
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def text(self, _index: int, text: str) -> bytes:
        """Return the event of more text, after those that begin its item if it is the first."""
        prefix = self._text_prefix
        if prefix is None:
            return self._write_text(text)
        self._texts.append(text)
        number = self._next
        self._next = number + 1
        return b'%b%b,"sequence_number":%d}\n\n' % (prefix, _encode(text), number)

    def delta(self, index: int, delta: ChoiceDelta) -> bytes:
        """Return the events of a delta that is not only text."""
        if self._logprobs is not None and delta.logprobs:
            self._logprobs.feed(delta.logprobs)
        return super().delta(index, delta)

    def _finish(self, finish_reason: FinishReason, _stop_reason: int | str | None) -> bytes:
        """Return the end of the last item. An answer without items has an empty message."""
        self._finish_reason = finish_reason
        begun = self._last_block()
        if self._logprobs is not None and self._kind == "text" and not self._called:
            self._tokens += self._logprobs.rest(self.counts().reasoning)
        return begun + self._end_block("incomplete" if finish_reason == "length" else "completed")

    def end(self) -> bytes:
        """Return the event with the finished response."""
        response = self._encoder.finished(self._done, self.counts(), self._finish_reason)
        return self._event(f"response.{response.status}", response=response)

    def error(self, error: VGateError) -> bytes:
        """Return the two events that end a broken stream: the error, and the partial response."""
        out = self._release()
        problem = {"code": error.code, "message": error.message, "param": error.param}
        out += self._event("error", **problem)
        output = list(self._done)
        if self._kind is not None:
            output.append(self._item("incomplete", "".join(self._texts)))
        # OpenAI has a closed list of codes; `type` is more precise.
        code = "rate_limit_exceeded" if isinstance(error, RateLimitedError) else "server_error"
        problem |= {"code": code, "type": error.type}
        response = msgspec.structs.replace(
            self._encoder.response, status="failed", output=output, error=problem
        )
        return out + self._event("response.failed", response=response)

    def _add(self, text: str) -> bytes:
        self._texts.append(text)
        if self._kind == "text" and self._logprobs is not None:
            tokens = self._logprobs.take(text, self.counts().reasoning)
            self._tokens += tokens
            name = f"{_EVENTS['text']}.delta"
            return self._event(name, **self._position(), delta=text, logprobs=tokens)
        if self._is_custom:
            # Its text is inside of JSON that has to be complete.
            return b""
        number = self._next
        self._next += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._prefix, _encode(text), number)

    def _begin_block(self, kind: BlockKind, call: ToolCallDelta | None) -> bytes:
        tool = self._encoder.tools.get(call.name or "") if call is not None else None
        self._is_custom = isinstance(tool, CustomTool)
        self._id, self._call = new_id("ctc_" if self._is_custom else _ID_PREFIXES[kind]), call
        index, position, item = len(self._done), self._position(), self._item("in_progress", None)
        begun = self._event("response.output_item.added", output_index=index, item=item)
        if kind != "tool_call":
            part = OutputText("") if kind == "text" else ReasoningText("")
            begun += self._event("response.content_part.added", **position, part=part)
        name = f"{_EVENTS[kind]}.delta"
        more: dict[str, Any] = {"logprobs": []} if kind == "text" else {}
        data = _encode({"type": name, **position, **more})[:-1] + b',"delta":'
        self._prefix = b"event: %s\ndata: %s" % (name.encode(), data)
        if kind == "text" and self._logprobs is None:
            self._text_prefix = self._prefix
        return begun

    def _end_block(self, status: ItemStatus = "completed") -> bytes:
        name, text = _EVENTS[self._kind or "text"], "".join(self._texts)
        index, position, item = len(self._done), self._position(), self._item(status, text)
        if isinstance(item, OutputCustomCall):
            events = "response.custom_tool_call_input"
            out = self._event(f"{events}.delta", **position, delta=item.input)
            out += self._event(f"{events}.done", **position, input=item.input)
        elif isinstance(item, OutputFunctionCall):
            out = self._event(f"{name}.done", **position, name=item.name, arguments=text)
        else:
            more = {"logprobs": self._tokens} if isinstance(item, OutputMessage) else {}
            out = self._event(f"{name}.done", **position, text=text, **more)
            out += self._event("response.content_part.done", **position, part=item.content[0])
        self._done.append(item)
        self._text_prefix, self._texts, self._tokens = None, [], []
        return out + self._event("response.output_item.done", output_index=index, item=item)

    def _item(self, status: ItemStatus, text: str | None) -> OutputItem:
        """Return the open item; a `text` of None leaves it without content."""
        if (call := self._call) is not None:
            made = (call.id or "", call.name or "", text or "")
            return call_item(self._encoder.tools, status, made, self._id)
        if self._kind == "text":
            parts = [] if text is None else [OutputText(text, self._tokens)]
            return OutputMessage(self._id, status, parts)
        return OutputReasoning(self._id, status, [] if text is None else [ReasoningText(text)])

    def _position(self) -> dict[str, Any]:
        """Return the fields that locate the open item's content in the output."""
        position: dict[str, Any] = {"item_id": self._id, "output_index": len(self._done)}
        return position if self._kind == "tool_call" else {**position, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._next
        self._next += 1
        data = _encode({"type": kind, "sequence_number": number, **fields})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
