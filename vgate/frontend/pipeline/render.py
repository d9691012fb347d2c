"""Conversations as text: messages and variables as a model's chat template takes them."""

from functools import lru_cache
from typing import Any

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.http import HttpRequest, Ignored
from vgate.frontend.pipeline.generation import Conversation, Generation, MadeCall, Message, ToolUse
from vgate.frontend.text import ChatTemplate, TemplateSyntaxError, TextModel

# What templates call the switch: Qwen3 and most others; DeepSeek-V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")


def render(generation: Generation, text: TextModel, http: HttpRequest, *, allow: bool) -> str:
    """Return a generation's conversation as text; `allow` permits a template of the client's own.

    What only tunes the answer, and the template has no variable for, is noted in `http.ignored`.

    Raises:
        InvalidRequestError: There is no template, or it can't render all of the request.
    """
    conversation, tools = generation.prompt, generation.tools
    assert isinstance(conversation, Conversation)
    if conversation.template is not None:
        if not allow:
            message = (
                "`chat_template` is not allowed by this server; the operator can allow it with "
                "model.allow_request_chat_template"
            )
            raise UnsupportedParameterError(message, param="chat_template")
        template = client_template(conversation.template, text.special_tokens)
    elif (own := text.tool_template if tools.tools else text.template) is not None:
        template = own
    else:
        message = (
            f"the model `{generation.model}` has no chat template; set model.chat_template to a "
            "file with one"
        )
        raise InvalidValueError(message, param="messages")
    return template.render(
        [template_message(message) for message in conversation.messages],
        tools=tools.tools,
        documents=conversation.documents,
        add_generation_prompt=conversation.add_generation_prompt,
        continue_final_message=conversation.continue_final_message,
        kwargs=template_kwargs(conversation, tools, template, http.ignored),
    )


def sets_effort(template: ChatTemplate) -> bool:
    """Whether a template has a variable for the reasoning effort, or a switch for reasoning."""
    return not template.variables.isdisjoint(("reasoning_effort", *_SWITCHES))


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
    return ChatTemplate(source, dict(special_tokens))


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


def _template_call(call: MadeCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def template_kwargs(
    conversation: Conversation, tools: ToolUse, template: ChatTemplate, ignored: Ignored
) -> dict[str, Any]:
    """Return the template's other variables.

    Raises:
        InvalidRequestError: The template would ignore part of the request.
    """
    for name, value in (("tools", tools.tools), ("documents", conversation.documents)):
        if value and name not in template.variables:
            message = f"`{name}`: the model's chat template does not support {name}"
            raise UnsupportedParameterError(message, param=name)
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
