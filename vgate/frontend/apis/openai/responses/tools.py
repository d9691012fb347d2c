"""The tools of the Responses API: functions, namespaces of functions, and custom tools.

The model sees functions only. A function of a namespace is served as ``<namespace>__<name>``; a
custom tool, whose input is free text, as a function with one text argument. Tools that OpenAI's own
servers run are ignored, and a header names them.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from vgate.frontend.apis.decoding import check_json, convert_part
from vgate.frontend.apis.fields import FieldPolicies, ignored
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.tools import custom_tool
from vgate.frontend.apis.shared import ToolName, function_tool
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import NO_TOOLS, ToolMode, ToolUse


def served_name(namespace: str | UnsetType | None, name: str) -> str:
    """Return the name of a tool that the model sees."""
    return f"{namespace}__{name}" if namespace else name


class _Tool(msgspec.Struct, frozen=True, kw_only=True):
    name: ToolName
    description: str | None = None
    # Set for the tools inside a namespace.
    namespace: str | UnsetType = UNSET

    @property
    def served_name(self) -> str:
        """The name that the model sees."""
        return served_name(self.namespace, self.name)


class FunctionTool(_Tool, frozen=True, kw_only=True):
    """A function that the model may call, as a response repeats it."""

    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    type: Literal["function"] = "function"

    def described(self) -> dict[str, Any]:
        """Return the tool as templates expect it."""
        return function_tool(self.served_name, self.description, self.parameters, self.strict)


class FunctionToolParam(FunctionTool, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    allowed_callers: Annotated[list[str] | None, ignored(["direct"])] = None
    async_: Annotated[bool | None, ignored(False)] = msgspec.field(default=None, name="async")
    defer_loading: Annotated[bool | None, ignored(False)] = None
    output_schema: Annotated[dict[str, Any] | None, ignored()] = None


class CustomTool(_Tool, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool whose input is text. The model reads its grammar, but isn't held to it."""

    format: dict[str, Any] | None = None
    type: Literal["custom"] = "custom"

    def described(self) -> dict[str, Any]:
        """Return the function that stands for the tool, as templates expect it."""
        return custom_tool(self.served_name, self.description, self.format)


class _Namespace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: ToolName
    type: Literal["namespace"]
    tools: list[dict[str, Any]] = []
    description: str | None = None


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool, by its name."""

    name: str
    type: Literal["function", "custom"] = "function"
    namespace: str | UnsetType = UNSET

    @property
    def served_name(self) -> str:
        """The name that the model sees."""
        return served_name(self.namespace, self.name)


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The only tools that the model may call."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]
    type: Literal["allowed_tools"] = "allowed_tools"


Tool = FunctionToolParam | CustomTool
_Mode = Literal["none", "auto", "required"]
ToolChoice = _Mode | NamedTool | AllowedTools

_policies = FieldPolicies(FunctionToolParam)


def read_tools(
    documents: list[dict[str, Any]], ignored: Ignored, where: str = "tools"
) -> list[Tool]:
    """Return the tools that can be served, those of namespaces among the others.

    Raises:
        InvalidRequestError: With the field at fault.
    """
    found: list[Tool] = []
    for index, document in enumerate(documents):
        path = f"{where}[{index}]"
        kind = document.get("type", "function")
        if kind == "namespace":
            space = convert_part(document, _Namespace, ignored, path)
            inner = read_tools(space.tools, ignored, f"{path}.tools")
            found += [msgspec.structs.replace(tool, namespace=space.name) for tool in inner]
        elif kind == "custom":
            custom = convert_part(document, CustomTool, ignored, path)
            check_json(custom.format, f"{path}.format")
            found.append(custom)
        elif kind == "function":
            function = convert_part(document, FunctionToolParam, ignored, path)
            _policies.check(function, ignored, f"{path}.")
            check_json(function.parameters, f"{path}.parameters")
            found.append(function)
        else:
            ignored.add(f"{path}.type={kind}")
    return found


def read_choice(document: Any, ignored: Ignored) -> ToolChoice | None:
    """Return which tools a request demands; None, noted as ignored, for a tool that isn't served.

    Raises:
        InvalidRequestError: With the field at fault.
    """
    if not isinstance(document, dict):
        return convert_part(document, _Mode | None, ignored, "tool_choice")  # type: ignore[arg-type]
    kind = document.get("type")
    if kind == "allowed_tools":
        tools = document.get("tools")
        if isinstance(tools, list):
            served = [tool for tool in tools if _is_named(tool)]
            if len(served) < len(tools):
                ignored.add("tool_choice.tools")
            document = {**document, "tools": served}
        return convert_part(document, AllowedTools, ignored, "tool_choice")
    if _is_named(document):
        return convert_part(document, NamedTool, ignored, "tool_choice")
    ignored.add(f"tool_choice.type={kind}")
    return None


def _is_named(document: Any) -> bool:
    # Any JSON may be here, so not a set, which takes only what can be hashed.
    served = ("function", "custom")
    return not isinstance(document, dict) or document.get("type", "function") in served


def tool_use(tools: list[Tool], choice: ToolChoice | None, *, parallel: bool) -> ToolUse:
    """Return which tools may and must be called.

    Raises:
        InvalidValueError: The choice names none of the tools.
    """
    names = {tool.served_name for tool in tools}
    mode: ToolMode = "auto"
    named = None
    if isinstance(choice, NamedTool):
        mode, named = "named", choice.served_name
        if named not in names:
            # As in vLLM, a tool of a namespace needs only its own name if no other has it.
            alike = {tool.served_name for tool in tools if tool.name == named}
            if len(alike) != 1:
                raise invalid("tool_choice.name", f"{named!r} is none of `tools`")
            (named,) = alike
    elif isinstance(choice, AllowedTools):
        mode = choice.mode
        allowed = {tool.served_name for tool in choice.tools}
        for name in sorted(allowed - names):
            raise invalid("tool_choice.tools", f"{name!r} is none of `tools`")
        tools = [tool for tool in tools if tool.served_name in allowed]
    elif choice is not None:
        mode = choice
        if mode == "required" and not tools:
            raise invalid("tool_choice", "'required' needs `tools`")
    if not tools or mode == "none":
        return NO_TOOLS
    return ToolUse(mode, [tool.described() for tool in tools], named, parallel)
