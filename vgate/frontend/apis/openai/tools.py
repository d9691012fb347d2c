"""The tools that a model may call, and which of them a request demands."""

from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import check_json
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.shared import ToolName, arguments_of, function_tool
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import NO_TOOLS, ToolMode, ToolUse

# The argument of the function that stands for a custom tool, which the model sees.
INPUT = "input"


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that can be called; `parameters` is the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Custom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool whose input is text; `format` has its grammar."""

    name: ToolName
    description: str | None = None
    format: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool: a function or a custom one. Those of OpenAI's servers can't be served."""

    type: str = "function"
    function: Function | None = None
    custom: Custom | None = None

    @property
    def served(self) -> Function | Custom | None:
        """The tool itself; None if its type isn't served."""
        return {"function": self.function, "custom": self.custom}.get(self.type)


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function or a custom tool, by its name."""

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
    custom: FunctionName | None = None

    @property
    def named(self) -> FunctionName | None:
        """The one tool that must be called."""
        return self.function or self.custom


def custom_tool(name: str, description: str | None, grammar: Any) -> dict[str, Any]:
    """Return the function that stands for a custom tool, as templates expect it.

    The model reads the grammar's `definition`, but isn't held to it.
    """
    description = description or ""
    definition = grammar.get("definition") if isinstance(grammar, dict) else None
    if definition:
        description += f"\n\nThe input follows this grammar:\n{definition}"
    schema = {
        "type": "object",
        "properties": {INPUT: {"type": "string"}},
        "required": [INPUT],
        "additionalProperties": False,
    }
    return function_tool(name, description, schema, None)


def custom_input(arguments: str) -> str:
    """Return the input of a custom tool from the arguments of its function, which may be cut."""
    parsed = arguments_of(arguments)
    value = parsed.get(INPUT) if isinstance(parsed, dict) else None
    return value if isinstance(value, str) else arguments


def tool_use(
    tools: list[Tool] | None, choice: str | ToolChoice | None, *, parallel: bool
) -> ToolUse:
    """Return which tools may and must be called, of a request that `check_tools` has accepted."""
    if not tools or choice == "none":
        return NO_TOOLS
    mode: ToolMode = "auto"
    name = None
    served = [tool.served for tool in tools if tool.served is not None]
    if not served:
        return NO_TOOLS
    if isinstance(choice, str):
        mode = cast("ToolMode", choice)
    elif choice is not None and choice.allowed_tools is not None:
        mode = choice.allowed_tools.mode
        allowed = _allowed_names(choice.allowed_tools)
        served = [tool for tool in served if tool.name in allowed]
    elif choice is not None and choice.named is not None:
        mode, name = "named", choice.named.name
    return ToolUse(mode, [_described(tool) for tool in served], name, parallel)


def custom_names(tools: list[Tool] | None) -> frozenset[str]:
    """Return the names of the custom tools."""
    if not tools:
        return frozenset()
    served = (tool.served for tool in tools)
    return frozenset(tool.name for tool in served if isinstance(tool, Custom))


def _described(tool: Function | Custom) -> dict[str, Any]:
    if isinstance(tool, Custom):
        return custom_tool(tool.name, tool.description, (tool.format or {}).get("grammar"))
    return function_tool(tool.name, tool.description, tool.parameters, tool.strict)


def check_tools(
    tools: list[Tool] | None, choice: str | ToolChoice | None, ignored: Ignored
) -> None:
    """Check what the types of tools can't express."""
    if not tools and choice is None:  # as of most requests
        return
    names = set()
    for index, tool in enumerate(tools or ()):
        path = f"tools[{index}]"
        if tool.type not in {"function", "custom"}:
            ignored.add(f"{path}.type={tool.type}")
            continue
        if (served := tool.served) is None:
            raise invalid(f"{path}.{tool.type}", "is required")
        if isinstance(served, Function):
            check_json(served.parameters, f"{path}.function.parameters")
        names.add(served.name)
    if choice == "required" and not names:
        raise invalid("tool_choice", "'required' needs `tools`")
    if isinstance(choice, ToolChoice):
        _check_choice(choice, names)


def _check_choice(choice: ToolChoice, names: set[str]) -> None:
    fields = {name: getattr(choice, name) for name in ("function", "custom", "allowed_tools")}
    if choice.type not in fields:
        problem = f"must be 'function', 'custom' or 'allowed_tools', got {choice.type[:80]!r}"
        raise unsupported("tool_choice.type", problem)
    for name, value in fields.items():
        if name == choice.type and value is None:
            raise invalid(f"tool_choice.{name}", "is required")
        if name != choice.type and value is not None:
            raise invalid(f"tool_choice.{name}", f"is not allowed with type {choice.type!r}")
    if choice.named is not None and choice.named.name not in names:
        name = choice.named.name[:80]
        raise invalid(f"tool_choice.{choice.type}.name", f"{name!r} is none of `tools`")
    if choice.allowed_tools is not None:
        path = "tool_choice.allowed_tools.tools"
        check_json(choice.allowed_tools.tools, path)
        for name in _allowed_names(choice.allowed_tools):
            if name not in names:
                raise invalid(path, f"{name[:80]!r} is none of `tools`")


def _allowed_names(allowed: AllowedTools) -> set[str]:
    names = set()
    for index, tool in enumerate(allowed.tools):
        kind = "custom" if tool.get("type") == "custom" else "function"
        inner = tool.get(kind)
        name = inner.get("name") if isinstance(inner, dict) else None
        if not isinstance(name, str):
            path = f"tool_choice.allowed_tools.tools[{index}].{kind}.name"
            raise invalid(path, "must be a string")
        names.add(name)
    return names
