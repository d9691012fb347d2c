"""The neutral request that every API translates its own into; the pipeline knows no other.

Errors about a generation name its fields as OpenAI's chat completions do, such as
`messages[0].content`; an API with other names has a `vgate.frontend.apis.fields.FieldMap`.
Generations come from JSON and can't refer to themselves, so no collector tracks them (`gc`).
"""

from typing import Any, Literal, NamedTuple

import msgspec

from vgate.wire.parameters import ClientOptions, SamplingParams, StructuredOutput

# "system", "user", "assistant" or "tool"; some templates know other roles.
Role = str
# Variables of chat templates for which a conversation has fields.
TEMPLATE_FIELDS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
ToolMode = Literal["none", "auto", "required", "named"]


class MadeCall(msgspec.Struct, frozen=True, gc=False):
    """A tool call that the model made in an earlier turn.

    Attributes:
        arguments: An object; text only if the model did not write one.
    """

    id: str
    name: str
    arguments: dict[str, Any] | str


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message of a conversation.

    Attributes:
        content: Its text; the API joins the parts.
        tool_call_id: In a tool's message, the call that it answers.
        name: The author's name, for templates that use it.
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
        add_generation_prompt: Whether the prompt ends with the beginning of an answer.
        continue_final_message: Whether the answer continues the last message.
        drop_oldest: Whether the oldest turns are left out if the prompt is too long.
        reasoning_effort: None for the model's own default.
        template: The client's own template, in place of the model's.
        template_kwargs: Other variables for the template.
        add_special_tokens: Whether the tokenizer adds its special tokens to the rendered text.
    """

    messages: list[Message]
    documents: list[dict[str, Any]] = []
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    drop_oldest: bool = False
    reasoning_effort: str | None = None
    template: str | None = None
    template_kwargs: dict[str, Any] = {}
    add_special_tokens: bool = False


class Prompts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prompts without a conversation, each a text or token ids.

    Attributes:
        prompts: At least one: all are texts, or all token ids.
        add_special_tokens: Whether the tokenizer adds its special tokens to texts.
        only: Whether the client wants the prompts back, and no token generated.
    """

    prompts: list[str | list[int]]
    add_special_tokens: bool = True
    only: bool = False


class ToolUse(msgspec.Struct, frozen=True, gc=False):
    """Which tools the model may call, and which it must.

    Attributes:
        mode: The model calls none, may call some ("auto"), must call one or more ("required"), or
            must call the tool `name` ("named").
        tools: As templates expect them; empty if the model may call none.
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
        keep_tokens: The most tokens to keep; -1 for as many as the model takes.
        side: Where tokens are removed.
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
        sampling: The client's parameters; the model's defaults complete them. `max_tokens` None
            stands for as many as the context has room for.
        choices: The number of answers to each prompt.
        constraint: The format of the text. The one of demanded tool calls takes precedence.
        stops, include_stop: Strings that end an answer, and whether they are part of its text.
        skip_special_tokens: Whether special tokens are left out of the text.
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


# Every other field shapes the answer.
_NOT_SHAPING: dict[str, Any] = {"model": "", "priority": None}


def shape_of(generation: Generation) -> Generation:
    """Return a generation without the fields that do not shape its answer.

    Two generations whose shape, prompt tokens, complete parameters and model are equal get the same
    answer. A new field shapes the answer unless it is named above.
    """
    return msgspec.structs.replace(generation, **_NOT_SHAPING)
