"""Requests of the Responses API as OpenAI defines them, with vLLM's additions.

`fields` says what becomes of each field. The items of the input are in `input`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.fields import ACCEPTED, refused
from vgate.frontend.apis.openai.common import Count, ReasoningEffort, TextRequest
from vgate.frontend.apis.shared import MAX_TOOLS, ToolName

OUTPUT_LOGPROBS = "message.output_text.logprobs"

# The others are about tools that aren't served, or about where reasoning goes, so they have nothing
# to add: reasoning is in the answer as plain text, and can be sent back as that.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]

# OpenAI's bounds (API reference, "Create a model response").
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]

_NOTHING_STORED = "nothing is stored; send the whole conversation in `input`"
_IN_FULL = "reasoning is shown in full; use 'auto' or leave it out"
Summary = Annotated[
    Literal["auto", "concise", "detailed"] | None, refused("auto", instead=_IN_FULL)
]


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to think."""

    effort: ReasoningEffort | None = None
    summary: Summary = None
    generate_summary: Summary = None
    context: Annotated[
        Literal["auto", "current_turn", "all_turns"] | None,
        refused("auto", instead="the model's chat template decides; use 'auto' or leave it out"),
    ] = None
    mode: Annotated[str | None, refused("standard", instead="use 'standard' or leave it out")] = (
        None
    )


class PlainFormat(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Any text."""


class ObjectFormat(msgspec.Struct, frozen=True, tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    """JSON that follows a schema."""

    name: Annotated[str, Meta(min_length=1)]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The format of the text."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        refused("medium", instead="use 'medium' or leave it out"),
    ] = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries; padding against an eavesdropper is never added."""

    include_obfuscation: Annotated[bool | None, ACCEPTED] = None


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call, as responses repeat it."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    type: Literal["function"]


class FunctionToolParam(FunctionTool, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    allowed_callers: Annotated[list[str] | None, refused(["direct"])] = None
    async_: Annotated[bool | None, refused(False)] = msgspec.field(default=None, name="async")
    defer_loading: Annotated[bool | None, refused(False)] = None
    output_schema: Annotated[dict[str, Any] | None, refused()] = None


class NamedFunction(msgspec.Struct, frozen=True, tag="function", forbid_unknown_fields=True):
    """A function, by its name."""

    name: ToolName


class AllowedFunctions(
    msgspec.Struct, frozen=True, tag="allowed_tools", forbid_unknown_fields=True
):
    """The only functions that the model may call."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1)]


class ResponsesRequest(TextRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/responses``. See the fields of all text APIs for the rest."""

    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: Annotated[list[FunctionToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions | None = (
        None
    )
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Includable] | None = None
    top_logprobs: Count | None = None
    stream_options: ResponsesStreamOptions | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    metadata: Annotated[Metadata | None, ACCEPTED] = None
    max_tool_calls: Annotated[int | None, ACCEPTED] = None

    background: Annotated[
        Any,
        refused(False, instead="send the request without it, and `stream: true` to see progress"),
    ] = None
    background_options: Annotated[Any, refused()] = None
    previous_response_id: Annotated[Any, refused(instead=_NOTHING_STORED)] = None
    conversation: Annotated[Any, refused(instead=_NOTHING_STORED)] = None
    prompt: Annotated[Any, refused(instead="send its text in `instructions` and `input`")] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None, refused("disabled", instead="shorten `input`")
    ] = None
    context_management: Annotated[Any, refused()] = None
    access_programs: Annotated[Any, refused()] = None
    image: Annotated[Any, refused()] = None
    enable_response_messages: Annotated[Any, refused(False)] = None
    previous_input_messages: Annotated[Any, refused(instead="use `input`")] = None
    # Chat completions' names.
    messages: Annotated[Any, refused(instead="use `input`")] = None
    max_tokens: Annotated[Any, refused(instead="use `max_output_tokens`")] = None
    max_completion_tokens: Annotated[Any, refused(instead="use `max_output_tokens`")] = None
    response_format: Annotated[Any, refused(instead="use `text.format`")] = None
    reasoning_effort: Annotated[Any, refused(instead="use `reasoning.effort`")] = None
    logprobs: Annotated[Any, refused(instead=f"use `include` with {OUTPUT_LOGPROBS!r}")] = None
    n: Annotated[Any, refused(instead="there is one answer")] = None

    @property
    def effort(self) -> ReasoningEffort | None:
        """The reasoning effort; None for the model's own."""
        return None if self.reasoning is None else self.reasoning.effort

    @property
    def wants_logprobs(self) -> bool:
        """Whether to show the log probabilities of the text's tokens."""
        return OUTPUT_LOGPROBS in (self.include or ())
