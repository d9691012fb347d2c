"""Conversations as text: messages and variables as a model's chat template takes them."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.http import HttpRequest, Ignored
from vgate.frontend.parsing import to_json
from vgate.frontend.pipeline.generation import Conversation, Generation, MadeCall, Message, ToolUse
from vgate.frontend.pipeline.normalise import describe_tools, render_normalised
from vgate.frontend.text import ChatTemplate, TemplateSyntaxError, TextModel

# What templates call the switch: Qwen3 and most others; DeepSeek-V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")
EFFORT_VARIABLES = ("reasoning_effort", *_SWITCHES)
# The efforts that gpt-oss knows, and what stands for others: it can't answer without reasoning.
_HARMONY_EFFORTS = {name: name for name in ("low", "medium", "high")} | {
    "none": "low",
    "minimal": "low",
    "xhigh": "high",
    "max": "high",
}


def render(generation: Generation, text: TextModel, http: HttpRequest, *, allow: bool) -> str:
    """Return a generation's conversation as text; `allow` permits a template of the client's own.

    The conversation is changed as far as the template demands it. What only tunes the answer, and
    the template has no variable for, is noted in `http.ignored`.

    Raises:
        InvalidRequestError: There is no template, or it can't render all of the request.
    """
    conversation, tools = generation.prompt, generation.tools
    assert isinstance(conversation, Conversation)
    if conversation.template is not None and not allow:
        message = (
            "`chat_template` is not allowed by this server; the operator can allow it with "
            "model.allow_request_chat_template"
        )
        raise UnsupportedParameterError(message, param="chat_template")
    template = template_of(generation, text)
    if template is None:
        message = (
            f"the model `{generation.model}` has no chat template; set model.chat_template to a "
            "file with one"
        )
        raise InvalidValueError(message, param="messages")
    if text.marks:
        conversation = _with_harmony_effort(conversation, http.ignored)
    kwargs = _variables(conversation, template, text, http.ignored)
    messages, shown = conversation.messages, tools.tools
    if describes_tools(tools, template, text):
        messages, shown = describe_tools(messages, shown), []
    elif text.marks:
        shown = _shielded(text, [_harmony_tool(tool) for tool in shown])
    as_fields = partial(_harmony_fields, text) if text.marks else template_message
    documents = _shielded(text, conversation.documents)

    def rendered(messages: list[Message]) -> str:
        return template.render(
            [as_fields(message) for message in messages],
            tools=shown,
            documents=documents,
            add_generation_prompt=conversation.add_generation_prompt,
            continue_final_message=conversation.continue_final_message,
            kwargs=kwargs,
        )

    def probe(messages: list[Message], tools: list[dict[str, Any]]) -> str:
        return template.render([as_fields(message) for message in messages], tools=tools)

    return render_normalised(
        template, messages, rendered, probe, tools=bool(shown), whole=conversation.template is None
    )


def template_of(generation: Generation, text: TextModel) -> ChatTemplate | None:
    """Return the template of a generation's conversation: the client's or the model's.

    Raises:
        InvalidValueError: The client's is not valid.
    """
    assert isinstance(generation.prompt, Conversation)
    own = generation.prompt.template
    if own is not None:
        return client_template(own, text.special_tokens)
    return text.tool_template if generation.tools.tools else text.template


def describes_tools(tools: ToolUse, template: ChatTemplate, text: TextModel) -> bool:
    """Whether the system message describes the tools, in place of the template.

    It does so if the template shows none, or shows the model a format that can't be read.
    """
    if not tools.tools:
        return False
    return "tools" not in template.variables or (text.plain_calls and tools.mode == "auto")


def sets_effort(template: ChatTemplate) -> bool:
    """Whether a template has a variable for the reasoning effort, or a switch for reasoning."""
    return not template.variables.isdisjoint(EFFORT_VARIABLES)


def client_template(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """Compile a client's template, in milliseconds; the longest ones take a second.

    Raises:
        InvalidValueError: It is not valid.
    """
    try:
        return _compiled(source, tuple(special_tokens.items()))
    except TemplateSyntaxError as error:
        message = f"`chat_template` is not valid: {error}"
        raise InvalidValueError(message, param="chat_template") from None


# Clients send the same one with every request.
@lru_cache(maxsize=16)
def _compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens), of_client=True)


def template_message(message: Message) -> dict[str, Any]:
    """Return a message as vLLM gives it to templates.

    Content is text, arguments are objects, and reasoning has two names.
    """
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    if message.reasoning is not None:
        fields["reasoning"] = fields["reasoning_content"] = message.reasoning
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _harmony_fields(text: TextModel, message: Message) -> dict[str, Any]:
    """Return a message as gpt-oss's template takes it, shielded."""
    return {name: _shielded(text, value) for name, value in _harmony_message(message).items()}


def _shielded(text: TextModel, value: Any) -> Any:
    """Return a client's value as gpt-oss's template gets it; every other template gets it as it is.

    What spells special tokens in it is just text there: who writes one message, or what a tool
    returns, adds no other one. Templates of other models, and vLLM's server with them, read special
    tokens in contents, and some clients rely on it.

    Raises:
        InvalidValueError: It is nested too deeply.
    """
    if not text.marks:
        return value
    try:
        return _with_texts(value, text.tokenizer.shielded)
    except RecursionError:
        message = "the model's chat template can't render what is nested so deeply"
        raise InvalidValueError(message, param="messages") from None


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of JSON with each of its texts changed, keys as well."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_with_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _with_texts(item, change) for key, item in value.items()}
    return value


def _harmony_message(message: Message) -> dict[str, Any]:
    """Return a message as gpt-oss's template takes it.

    Its name for reasoning is `thinking`. Beside calls it takes either that or content, and shows
    both on the channel `analysis`.
    """
    fields, thinking = template_message(message), message.reasoning or ""
    if message.tool_calls:
        thinking = "\n\n".join(filter(None, (thinking, message.content)))
        fields["content"] = ""
    return {**fields, "thinking": thinking} if thinking else fields


def _harmony_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool as gpt-oss's template takes it.

    It adds texts: a description that must be there, and defaults of enums that must be text.
    """
    function = tool["function"]
    described = {**function, "description": function.get("description") or ""}
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if isinstance(properties, dict):
        shown = {name: _with_text_default(schema) for name, schema in properties.items()}
        described["parameters"] = {**parameters, "properties": shown}
    return {**tool, "function": described}


def _with_text_default(schema: Any) -> Any:
    if not (isinstance(schema, dict) and (schema.get("enum") or schema.get("oneOf"))):
        return schema
    default = schema.get("default", "")
    return schema if isinstance(default, str) else {**schema, "default": to_json(default)}


def _with_harmony_effort(conversation: Conversation, ignored: Ignored) -> Conversation:
    asked = conversation.reasoning_effort
    effort = _HARMONY_EFFORTS.get(asked or "")
    if effort != asked:
        ignored.add("reasoning_effort")
    return msgspec.structs.replace(conversation, reasoning_effort=effort)


def _template_call(call: MadeCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _variables(
    conversation: Conversation, template: ChatTemplate, text: TextModel, ignored: Ignored
) -> dict[str, Any]:
    """Return the template's other variables, shielded; the operator's as well for a client's."""
    own: dict[str, Any] = _shielded(text, template_kwargs(conversation, template, ignored))
    return own if conversation.template is None else text.template_kwargs | own


def template_kwargs(
    conversation: Conversation, template: ChatTemplate, ignored: Ignored
) -> dict[str, Any]:
    """Return the template's other variables.

    Raises:
        InvalidRequestError: The template would ignore part of the request.
    """
    if conversation.documents and "documents" not in template.variables:
        message = "`documents`: the model's chat template does not support documents"
        raise UnsupportedParameterError(message, param="documents")
    for name in conversation.template_kwargs:
        if name not in template.variables:
            ignored.add(f"chat_template_kwargs.{name}")
    return {**reasoning_kwargs(conversation, template, ignored), **conversation.template_kwargs}


def reasoning_kwargs(
    conversation: Conversation, template: ChatTemplate, ignored: Ignored
) -> dict[str, Any]:
    """Return the template's variables for the reasoning effort: itself, a switch, or both."""
    effort = conversation.reasoning_effort
    if effort is None:
        return {}
    wanted: dict[str, Any] = {}
    if "reasoning_effort" in template.variables:
        wanted["reasoning_effort"] = effort
    wanted |= {name: effort != "none" for name in _SWITCHES if name in template.variables}
    if not wanted:
        ignored.add("reasoning_effort")
    return wanted
