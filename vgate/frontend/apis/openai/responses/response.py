"""Responses as the Responses API shows them.

A stream ends with the same object that an answer is which isn't streamed; both are made of the
items here.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from vgate.errors import RateLimitedError, VGateError
from vgate.frontend import ids
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result, TokenCounts
from vgate.frontend.apis.openai.logprobs import LogprobTexts, TokenLogprob
from vgate.frontend.apis.openai.responses.logprobs import TextLogprobs

_encode = msgspec.json.Encoder().encode

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(msgspec.Struct, frozen=True):
    """What the model says."""

    text: str
    logprobs: list[TokenLogprob] = []
    annotations: list[Any] = []
    type: Literal["output_text"] = "output_text"


class Message(msgspec.Struct, frozen=True):
    """An item with what the model says."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"
    type: Literal["message"] = "message"


class ReasoningText(msgspec.Struct, frozen=True):
    """What the model thought."""

    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class Reasoning(msgspec.Struct, frozen=True):
    """An item with what the model thought: in full, so there is no summary."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[Any] = []
    encrypted_content: None = None
    type: Literal["reasoning"] = "reasoning"


class FunctionCall(msgspec.Struct, frozen=True):
    """An item with a call that the model makes; `arguments` is JSON text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"] = "function_call"


Item = Message | Reasoning | FunctionCall


class InputTokensDetails(msgspec.Struct, frozen=True):
    """How the input was processed. What is put into the prefix cache isn't counted."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """What the output's tokens are."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, counts: TokenCounts) -> Usage:
        """Write the counts."""
        return cls(
            counts.prompt,
            InputTokensDetails(counts.cached),
            counts.completion,
            OutputTokensDetails(counts.reasoning),
            counts.prompt + counts.completion,
        )


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed. OpenAI has a closed list of codes; `type` is more precise."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str
    param: str | None
    type: str

    @classmethod
    def of(cls, error: VGateError) -> ResponseError:
        """Write an error."""
        limited = isinstance(error, RateLimitedError)
        code: Any = "rate_limit_exceeded" if limited else "server_error"
        return cls(code, error.message, error.param, error.type)


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response. What follows `usage` tells what was asked."""

    id: str = ""
    object: Literal["response"] = "response"
    created_at: int = 0
    completed_at: int | None = None
    status: Status = "in_progress"
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[Item] = []
    usage: Usage | None = None
    background: Literal[False] = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    truncation: Literal["disabled"] = "disabled"
    user: str | None

    def begun(self) -> Response:
        """Return the response as it is at its beginning, with an id."""
        return msgspec.structs.replace(self, id=new_id("resp"), created_at=int(time.time()))

    def ended(
        self, output: list[Item], counts: TokenCounts, finish_reason: FinishReason
    ) -> Response:
        """Return the response as it is at its end."""
        cut = finish_reason == "length"
        return msgspec.structs.replace(
            self,
            completed_at=None if cut else int(time.time()),
            status="incomplete" if cut else "completed",
            incomplete_details=IncompleteDetails() if cut else None,
            output=output,
            usage=Usage.of(counts),
        )

    def failed(self, output: list[Item], error: VGateError) -> Response:
        """Return the response as it is when it breaks."""
        return msgspec.structs.replace(
            self, status="failed", output=output, error=ResponseError.of(error)
        )


class ResponsesOptions(msgspec.Struct, frozen=True):
    """What a client gets to see.

    Attributes:
        response: The response without all that comes of the answer.
        logprobs: Writes log probabilities; None if they weren't asked for.
    """

    response: Response
    logprobs: LogprobTexts | None = None

    def text_logprobs(self) -> TextLogprobs | None:
        """Return what finds the log probabilities of an answer's text."""
        if self.logprobs is None:
            return None
        return TextLogprobs(self.logprobs, self.response.top_logprobs)


def output_of(choice: ChoiceResult, reasoning_tokens: int, form: ResponsesOptions) -> list[Item]:
    """Return the items of an answer; the last one is incomplete if the answer is."""
    output: list[Item] = []
    if choice.reasoning:
        content = [ReasoningText(choice.reasoning)]
        output.append(Reasoning(new_id("rs"), "completed", content))
    if choice.text or not (choice.reasoning or choice.tool_calls):
        shown: list[TokenLogprob] = []
        logprobs = form.text_logprobs()
        if logprobs is not None:
            logprobs.feed(choice.logprobs or [])
            shown = logprobs.take(choice.text, reasoning_tokens)
            if not choice.tool_calls:
                shown += logprobs.rest(reasoning_tokens)
        text = OutputText(choice.text, shown)
        output.append(Message(new_id("msg"), "completed", [text]))
    output += [
        FunctionCall(new_id("fc"), "completed", call.id, call.name, call.arguments)
        for call in choice.tool_calls
    ]
    if choice.finish_reason == "length":
        output[-1] = msgspec.structs.replace(output[-1], status="incomplete")
    return output


def whole_response(answer: Result, form: ResponsesOptions) -> bytes:
    """Return the body of an answer that is not streamed."""
    choice, counts = answer.choices[0], answer.counts
    output = output_of(choice, counts.reasoning, form)
    return _encode(form.response.begun().ended(output, counts, choice.finish_reason))


def new_id(kind: str) -> str:
    """Return a new id of a response or an item."""
    return ids.new_id(f"{kind}_")
