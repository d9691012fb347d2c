"""Tools that a model may call, and what a request demands of their use.

The schemas of demanded calls have the form of vLLM's (vllm/tool_parsers/utils.py), so that the same
request is constrained in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import check_json
from vgate.frontend.apis.openai.structured import schema_form
from vgate.wire.messages import StructuredOutput

if TYPE_CHECKING:
    from vgate.frontend.apis.openai.chat.request import ChatRequest

# OpenAI's bound is 128 (API reference, "Create chat completion"); agents of other APIs have more.
MAX_TOOLS = 512

# OpenAI has letters, digits, "_" and "-", up to 64; other APIs' and gateways' names have more.
ToolName = Annotated[str, Meta(pattern=r"^[\w.:/-]{1,128}\Z")]
ToolMode = Literal["none", "auto", "required", "named"]


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that can be called; `parameters` is the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions can be served."""

    type: str
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
    """One tool that is to be called, or some that may be."""

    type: str = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None
    custom: Any = None


class ToolUse(msgspec.Struct, frozen=True):
    """What a request says of tools, decided.

    Attributes:
        mode: Whether the model calls none, may call some, must call one or more, or must call one
            of a certain name.
        tools: The whole tools, as templates know them; empty where the model may call none.
        functions: The functions in them.
        name: The function that must be called.
        parallel: Whether there may be more than one call.
    """

    mode: ToolMode = "none"
    tools: list[dict[str, Any]] = []
    name: str | None = None
    parallel: bool = True

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions of the tools."""
        return [tool["function"] for tool in self.tools]

    def structured(self) -> StructuredOutput | None:
        """Return the form that the demanded calls must have, if any are demanded.

        Raises:
            InvalidValueError: The schemas of two tools can't be put into one.
        """
        if self.mode == "named":
            # Of two of the same name the last, as in vLLM.
            places = {function["name"]: place for place, function in enumerate(self.functions)}
            place = places[self.name]
            field = f"tools[{place}].function.parameters"
            return schema_form(_parameters(self.functions[place]), field)
        if self.mode == "required":
            return schema_form(_calls_schema(self.functions, parallel=self.parallel), "tools")
        return None


NO_TOOLS = ToolUse()


def tool_use(request: ChatRequest) -> ToolUse:
    """Return what a checked request says of tools."""
    tools, choice = request.tools, request.tool_choice
    if not tools or choice == "none":
        return NO_TOOLS
    mode: ToolMode = "auto"
    name = None
    if isinstance(choice, str):
        mode = choice
    elif choice is not None and choice.allowed_tools is not None:
        mode = choice.allowed_tools.mode
        allowed = _allowed_names(choice.allowed_tools)
        tools = [tool for tool in tools if tool.function and tool.function.name in allowed]
    elif choice is not None and choice.function is not None:
        mode, name = "named", choice.function.name
    shown = [_shown(tool.function) for tool in tools if tool.function is not None]
    return ToolUse(mode, shown, name, request.parallel_tool_calls is not False)


def check_tools(tools: list[Tool] | None, choice: str | ToolChoice | None) -> None:
    """Check what the types can't say of tools.

    Raises:
        InvalidRequestError: With the path of the field at fault.
    """
    names = set()
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        if tool.type != "function" or tool.custom is not None:
            message = f"`{where}.type` must be 'function', got {tool.type[:80]!r}"
            raise UnsupportedParameterError(message, param=f"{where}.type")
        if tool.function is None:
            raise InvalidValueError(f"`{where}.function` is required", param=f"{where}.function")
        check_json(tool.function.parameters, f"{where}.function.parameters")
        names.add(tool.function.name)
    if choice == "required" and not names:
        raise InvalidValueError("`tool_choice` 'required' needs `tools`", param="tool_choice")
    if isinstance(choice, ToolChoice):
        _check_choice(choice, names)


def _check_choice(choice: ToolChoice, names: set[str]) -> None:
    fields = {"function": choice.function, "allowed_tools": choice.allowed_tools}
    if choice.type not in fields or choice.custom is not None:
        message = (
            f"`tool_choice.type` must be 'function' or 'allowed_tools', got {choice.type[:80]!r}"
        )
        raise UnsupportedParameterError(message, param="tool_choice.type")
    for name, value in fields.items():
        if name == choice.type and value is None:
            raise InvalidValueError(
                f"`tool_choice.{name}` is required", param=f"tool_choice.{name}"
            )
        if name != choice.type and value is not None:
            message = f"`tool_choice.{name}` is not allowed with type {choice.type!r}"
            raise InvalidValueError(message, param=f"tool_choice.{name}")
    if choice.function is not None and choice.function.name not in names:
        raise _unknown(choice.function.name, "tool_choice.function.name")
    if choice.allowed_tools is not None:
        check_json(choice.allowed_tools.tools, "tool_choice.allowed_tools.tools")
        for name in _allowed_names(choice.allowed_tools):
            if name not in names:
                raise _unknown(name, "tool_choice.allowed_tools.tools")


def _allowed_names(allowed: AllowedTools) -> set[str]:
    names = set()
    for index, tool in enumerate(allowed.tools):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            where = f"tool_choice.allowed_tools.tools[{index}].function.name"
            raise InvalidValueError(f"`{where}` must be a string", param=where)
        names.add(name)
    return names


def _unknown(name: str, where: str) -> InvalidRequestError:
    return InvalidValueError(f"`{where}` {name[:80]!r} is none of `tools`", param=where)


def _shown(function: Function) -> dict[str, Any]:
    """Return a tool as vLLM shows it to templates: these fields in this order, absent ones null."""
    shown: dict[str, Any] = {
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters,
    }
    if function.strict is not None:
        shown["strict"] = function.strict
    return {"type": "function", "function": shown}


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    return function["parameters"] or {"type": "object", "properties": {}}


def _calls_schema(functions: list[dict[str, Any]], *, parallel: bool) -> dict[str, Any]:
    """Return the schema of a list of calls; definitions move to its root, where $ref finds them."""
    definitions: dict[str, Any] = {}
    calls = []
    for index, function in enumerate(functions):
        parameters = dict(_parameters(function))
        _merge(
            definitions, parameters.pop("$defs", {}), f"tools[{index}].function.parameters.$defs"
        )
        properties = {
            "name": {"type": "string", "enum": [function["name"]]},
            "parameters": parameters,
        }
        calls.append({"properties": properties, "required": ["name", "parameters"]})
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "anyOf": calls},
    }
    if not parallel:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return schema


def _merge(definitions: dict[str, Any], more: Any, where: str) -> None:
    if not isinstance(more, dict):
        raise InvalidValueError(f"`{where}` must be an object", param=where)
    for name, definition in more.items():
        if definitions.setdefault(name, definition) != definition:
            message = f"`{where}.{name}` differs from another tool's definition of that name"
            raise InvalidValueError(message, param=f"{where}.{name}")
