"""Whole answers of the Messages API."""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.frontend.answers.result import ChoiceResult, Result
from vgate.frontend.apis.anthropic.messages.stop_reason import SIGNATURE, StopReason, Usage, stop_of
from vgate.frontend.apis.anthropic.messages.stream import MessagesStream
from vgate.frontend.apis.anthropic.messages.tool_input import tool_input
from vgate.frontend.ids import new_id

_encode = msgspec.json.Encoder().encode


class Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """What the model says."""

    text: str
    citations: None = None


class Thinking(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """What it thinks."""

    thinking: str
    signature: str = SIGNATURE


class ToolUse(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """What it calls."""

    id: str
    name: str
    input: msgspec.Raw


class Message(msgspec.Struct, frozen=True):
    """The response of a request that is not streamed."""

    id: str
    model: str
    content: list[Text | Thinking | ToolUse]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: Usage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class MessagesEncoder:
    """Says answers as messages.

    Args:
        model: The name that the answer carries.
        request_id: The HTTP request's, for errors.
    """

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id

    def stream_encoder(self) -> MessagesStream:
        """Return what streams one answer."""
        return MessagesStream(_message_id(), self._model, self._request_id)

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""
        (choice,) = answer.choices
        reason, sequence = stop_of(
            choice.finish_reason, choice.stop_reason, called=bool(choice.tool_calls)
        )
        return _encode(
            Message(
                _message_id(),
                self._model,
                _content(choice),
                reason,
                sequence,
                Usage.of(answer.counts),
            )
        )


def _content(choice: ChoiceResult) -> list[Text | Thinking | ToolUse]:
    content: list[Text | Thinking | ToolUse] = []
    if choice.reasoning:
        content.append(Thinking(choice.reasoning))
    if choice.text:
        content.append(Text(choice.text))
    content += [
        ToolUse(call.id, call.name, tool_input(call.arguments)) for call in choice.tool_calls
    ]
    # Clients look at the first block without asking whether there is one.
    return content or [Text("")]


def _message_id() -> str:
    return new_id("msg_")
