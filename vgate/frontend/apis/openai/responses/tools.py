"""Tools in the Responses API: functions, without a wrapping of their own."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.field_paths import convert, inside


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    type: Literal["function"] = "function"


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function, by its name."""

    name: str
    type: Literal["function"] = "function"


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The only tools that may be used in this request."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]
    type: Literal["allowed_tools"] = "allowed_tools"


class _AllowedChoice(msgspec.Struct, frozen=True):
    """The same, before it is known that all are functions."""

    tools: list[dict[str, Any]]


Choice = str | NamedTool | AllowedTools | None


def function_tools(tools: list[dict[str, Any]]) -> list[FunctionTool]:
    """Return a request's tools.

    Raises:
        InvalidRequestError: One is no function, or not a right one.
    """
    return [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def tool_choice(choice: str | dict[str, Any] | None) -> Choice:
    """Return what a request says of its tools' use.

    Raises:
        InvalidRequestError: It can't be served.
    """
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "function":
        return convert(choice, NamedTool, inside("tool_choice"))
    if kind == "allowed_tools":
        allowed = convert(choice, _AllowedChoice, inside("tool_choice"))
        for index, tool in enumerate(allowed.tools):
            _check_is_function(tool, f"tool_choice.tools[{index}]")
        return convert(choice, AllowedTools, inside("tool_choice"))
    text = f"`tool_choice.type` must be 'function' or 'allowed_tools', got {_shown(kind)}"
    raise UnsupportedParameterError(text, param="tool_choice.type")


# Fields of function tools that change how OpenAI runs them, and their neutral values.
_TOOL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
    "output_schema": (),
}


def _function(tool: dict[str, Any], where: str) -> FunctionTool:
    _check_is_function(tool, where)
    for name, neutral in _TOOL_OPTIONS.items():
        value = tool.get(name)
        if value is not None and value not in neutral:
            text = f"`{where}.{name}` is not supported by this server"
            raise UnsupportedParameterError(text, param=f"{where}.{name}")
    known = {name: value for name, value in tool.items() if name not in _TOOL_OPTIONS}
    return convert(known, FunctionTool, inside(where))


def _check_is_function(tool: dict[str, Any], where: str) -> None:
    kind = tool.get("type")
    if kind is None:
        raise InvalidValueError(f"`{where}.type` is required", param=f"{where}.type")
    if kind != "function":
        text = (
            f"`{where}.type` must be 'function', got {_shown(kind)}; "
            "this server runs no tools of its own"
        )
        raise UnsupportedParameterError(text, param=f"{where}.type")


def _shown(value: Any) -> str:
    return repr(value)[:80]
