"""The tools that a model may call, and which of them a request demands."""

from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import check_json
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.shared import ToolName, function_tool
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import NO_TOOLS, ToolMode, ToolUse


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that can be called; `parameters` is the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions can be served. `custom` ones and those of OpenAI's servers can't."""

    type: str = "function"
    function: Function | None = None
    custom: Any = None


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function, by its name."""

    name: ToolName


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The only tools that may be used in this request."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Meta(min_length=1)]


class ToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one tool that must be called, or the tools that may be called."""

    type: str = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None
    custom: Any = None


def tool_use(
    tools: list[Tool] | None, choice: str | ToolChoice | None, *, parallel: bool
) -> ToolUse:
    """Return which tools may and must be called, of a request that `check_tools` has accepted."""
    if not tools or choice == "none":
        return NO_TOOLS
    mode: ToolMode = "auto"
    name = None
    functions = [tool.function for tool in tools if tool.function is not None]
    if not functions:
        return NO_TOOLS
    if isinstance(choice, str):
        mode = cast("ToolMode", choice)
    elif choice is not None and choice.allowed_tools is not None:
        mode = choice.allowed_tools.mode
        allowed = _allowed_names(choice.allowed_tools)
        functions = [function for function in functions if function.name in allowed]
    elif choice is not None and choice.function is not None:
        mode, name = "named", choice.function.name
    described = [function_tool(f.name, f.description, f.parameters, f.strict) for f in functions]
    return ToolUse(mode, described, name, parallel)


def check_tools(
    tools: list[Tool] | None, choice: str | ToolChoice | None, ignored: Ignored
) -> None:
    """Check what the types of tools can't express."""
    names = set()
    for index, tool in enumerate(tools or ()):
        path = f"tools[{index}]"
        if tool.type != "function":
            ignored.add(f"{path}.type={tool.type}")
            continue
        if tool.function is None:
            raise invalid(f"{path}.function", "is required")
        check_json(tool.function.parameters, f"{path}.function.parameters")
        names.add(tool.function.name)
    if choice == "required" and not names:
        raise invalid("tool_choice", "'required' needs `tools`")
    if isinstance(choice, ToolChoice):
        _check_choice(choice, names)


def _check_choice(choice: ToolChoice, names: set[str]) -> None:
    fields = {"function": choice.function, "allowed_tools": choice.allowed_tools}
    if choice.type not in fields or choice.custom is not None:
        problem = f"must be 'function' or 'allowed_tools', got {choice.type[:80]!r}"
        raise unsupported("tool_choice.type", problem)
    for name, value in fields.items():
        if name == choice.type and value is None:
            raise invalid(f"tool_choice.{name}", "is required")
        if name != choice.type and value is not None:
            raise invalid(f"tool_choice.{name}", f"is not allowed with type {choice.type!r}")
    if choice.function is not None and choice.function.name not in names:
        name = choice.function.name[:80]
        raise invalid("tool_choice.function.name", f"{name!r} is none of `tools`")
    if choice.allowed_tools is not None:
        path = "tool_choice.allowed_tools.tools"
        check_json(choice.allowed_tools.tools, path)
        for name in _allowed_names(choice.allowed_tools):
            if name not in names:
                raise invalid(path, f"{name[:80]!r} is none of `tools`")


def _allowed_names(allowed: AllowedTools) -> set[str]:
    names = set()
    for index, tool in enumerate(allowed.tools):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            path = f"tool_choice.allowed_tools.tools[{index}].function.name"
            raise invalid(path, "must be a string")
        names.add(name)
    return names
