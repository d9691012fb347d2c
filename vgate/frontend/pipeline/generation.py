"""The neutral request: what to generate from, how, and how to read the tokens. No API's terms.

Each API translates its own request into a `Generation`; the pipeline knows nothing else of it.
Errors about a generation name its fields as OpenAI's chat completions do (`messages[0].content`,
`max_tokens`, `tools[0].function.parameters`); an API whose fields have other names translates them
with a `vgate.frontend.apis.fields.FieldMap`.

All of it is made of JSON and so can't hold itself, which spares it the garbage collector (`gc`).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from vgate.wire.messages import ClientOptions, StructuredOutput
from vgate.wire.sampling import SamplingParams

Role = Literal["system", "user", "assistant", "tool"]
# Variables of chat templates that have fields of their own in a conversation.
TEMPLATE_FIELDS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
ToolMode = Literal["none", "auto", "required", "named"]


class MadeCall(msgspec.Struct, frozen=True, gc=False):
    """A tool call that the model made in an earlier turn.

    Attributes:
        arguments: An object; text only where the model did not write one.
    """

    id: str
    name: str
    arguments: dict[str, Any] | str


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of a conversation.

    Attributes:
        content: Its text; parts are joined by the API.
        reasoning: What an assistant thought before it answered.
        tool_calls: The calls that an assistant made.
        tool_call_id: In a tool's message, the call that it answers.
        name: The author's name, for templates that show it.
    """

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: list[MadeCall] = []
    tool_call_id: str | None = None
    name: str | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A prompt that the model's chat template renders.

    Attributes:
        documents: Retrieved documents, for templates that take them.
        add_generation_prompt: Whether the prompt ends with the beginning of an answer.
        continue_final_message: Whether the answer continues the last message.
        reasoning_effort: How much to think; None for the model's own default.
        template: A template of the client's own, in place of the model's.
        template_kwargs: Further variables for the template.
        add_special_tokens: Whether the tokenizer adds its special tokens to the rendered text.
    """

    messages: list[Message]
    documents: list[dict[str, Any]] = []
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    reasoning_effort: str | None = None
    template: str | None = None
    template_kwargs: dict[str, Any] = {}
    add_special_tokens: bool = False


class Prompts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prompts without a conversation, each a text or token ids.

    Attributes:
        prompts: At least one; all are answered together.
        add_special_tokens: Whether the tokenizer adds its special tokens to texts.
        only: Whether the prompts alone are wanted back, and no token generated.
    """

    prompts: list[str | list[int]]
    add_special_tokens: bool = True
    only: bool = False


class ToolUse(msgspec.Struct, frozen=True, gc=False):
    """Which tools the model may call, and which it must.

    Attributes:
        mode: Whether it calls none, may call some, must call one or more, or must call the one
            that is named.
        tools: The tools as templates know them; empty if the model may call none.
        name: The function that must be called.
        parallel: Whether an answer may have more than one call.
    """

    mode: ToolMode = "none"
    tools: list[dict[str, Any]] = []
    name: str | None = None
    parallel: bool = True

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions of the tools."""
        return [tool["function"] for tool in self.tools]


NO_TOOLS = ToolUse()


class Truncation(msgspec.Struct, frozen=True, gc=False):
    """How a prompt that is too long is cut.

    Attributes:
        keep_tokens: The most tokens that are kept; -1 for as many as the model takes.
        side: Where tokens are cut away.
    """

    keep_tokens: int
    side: Literal["left", "right"] = "left"


class Constraint(NamedTuple):
    """A format that the text must follow, and the request's field that demands it."""

    output: StructuredOutput
    field: str


class Generation(ClientOptions, frozen=True, kw_only=True, gc=False):
    """What a client asks to be generated; the `ClientOptions` are among its fields.

    Attributes:
        model: The served name that the client used; it may be an adapter's.
        prompt: What to generate from.
        sampling: The parameters that the client chose; the model's defaults fill in the rest.
            `max_tokens` None stands for as many as the context has room for.
        choices: Answers to each prompt.
        tools: Which tools the model may call.
        constraint: The format that the text must follow; tool calls that are demanded have one of
            their own, which comes before this.
        stops: Strings that end an answer.
        include_stop: Whether such a string is part of the answer's text.
        bad_words: Words that are never generated.
        skip_special_tokens: Whether special tokens are left out of the text.
        show_reasoning: Whether the client wants to see the model's reasoning.
        keep_token_ids: Whether the answer keeps its token ids.
        truncation: How a prompt that is too long is cut; None refuses it.
        priority: Lower starts sooner; None for the API key's own.
    """

    model: str
    prompt: Conversation | Prompts
    sampling: SamplingParams
    choices: int = 1
    tools: ToolUse = NO_TOOLS
    constraint: Constraint | None = None
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    bad_words: list[str] = msgspec.field(default_factory=list)
    skip_special_tokens: bool = True
    show_reasoning: bool = True
    keep_token_ids: bool = False
    truncation: Truncation | None = None
    priority: int | None = None


# How a request is named and when it starts; everything else shapes the answer.
_NOT_SHAPING: dict[str, Any] = {"model": "", "priority": None}


def shape_of(generation: Generation) -> Generation:
    """Return a generation without what does not shape its answer.

    Two generations for which this is equal (as are their prompts' tokens, complete parameters and
    model) get the same answer. A new field shapes the answer until it is named above.
    """
    return msgspec.structs.replace(generation, **_NOT_SHAPING)
