"""What a chat request hands to the model's chat template besides messages and tools."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.tools import ToolUse
from vgate.frontend.text.template import ChatTemplate, TemplateSyntaxError

# How templates name the switch: Qwen3 and most others; DeepSeek-V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")


def client_template(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """Compile a client's template: milliseconds for a usual one, a second for the longest.

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


def can_set_effort(template: ChatTemplate) -> bool:
    """Whether a template can be told how much to think, or whether to."""
    return not template.variables.isdisjoint(("reasoning_effort", *_SWITCHES))


def reasoning_kwargs(request: ChatRequest, template: ChatTemplate) -> dict[str, Any]:
    """Return the template's variables that say how much to think.

    A template that knows efforts gets the effort; one that only knows on and off gets that.

    Raises:
        InvalidRequestError: The template knows neither, or the request says two things.
    """
    effort = request.reasoning_effort
    if effort is None:
        return {}
    wanted: dict[str, Any] = {}
    if "reasoning_effort" in template.variables:
        wanted["reasoning_effort"] = effort
    wanted |= {name: effort != "none" for name in _SWITCHES if name in template.variables}
    if not wanted:
        message = "`reasoning_effort`: the model's chat template has no way to set reasoning effort"
        raise UnsupportedParameterError(message, param="reasoning_effort")
    given = request.chat_template_kwargs or {}
    for name, value in wanted.items():
        if given.get(name, value) != value:
            where = f"chat_template_kwargs.{name}"
            message = f"`{where}` contradicts `reasoning_effort` {effort!r}"
            raise InvalidValueError(message, param=where)
    return wanted


def template_kwargs(request: ChatRequest, tools: ToolUse, template: ChatTemplate) -> dict[str, Any]:
    """Return the template's further variables.

    Raises:
        InvalidRequestError: The request has something that the template would ignore.
    """
    given = request.chat_template_kwargs or {}
    for name, value in (("tools", tools.tools), ("documents", request.documents)):
        if value and name not in template.variables:
            message = f"`{name}`: the model's chat template does not support {name}"
            raise UnsupportedParameterError(message, param=name)
    for name in given:
        if name not in template.variables:
            where = f"chat_template_kwargs.{name}"
            message = f"`{where}` is not a variable of the model's chat template"
            raise UnsupportedParameterError(message, param=where)
    return {**given, **reasoning_kwargs(request, template)}
