"""Tools: their checks, their descriptions for templates, and the schemas of demanded calls."""

import json
from typing import Any, ClassVar

import pytest

from vgate.errors import InvalidRequestError, InvalidValueError, VGateError
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, generation_of
from vgate.frontend.apis.shared import MAX_TOOLS
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import NO_TOOLS, ToolUse
from vgate.frontend.pipeline.constraints import calls_constraint

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA},
}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}
TOOLS = [WEATHER, TIME]
NAMED = {"type": "function", "function": {"name": "weather"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def decode(ignored: Ignored | None = None, **fields: Any) -> ChatRequest:
    hello = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "messages": hello, **fields}).encode()
    return decode_chat(body, ignored or Ignored())


def refusal(**fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        decode(Ignored(refuse_unknown=True), **fields)
    assert caught.value.status == 400
    return caught.value


def tool_use(**fields: Any) -> ToolUse:
    return generation_of(decode(**fields)).tools


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


class TestChecks:
    @pytest.mark.parametrize("name", ["f", "a" * 256, "get_time-2", "mcp.server:tool/x", "é t"])
    def test_names(self, name):
        decode(tools=[tool(name=name)])

    @pytest.mark.parametrize("name", ["", "a" * 257, 5, None])
    def test_bad_names(self, name):
        assert refusal(tools=[tool(), tool(name=name)]).param == "tools[1].function.name"

    @pytest.mark.parametrize(
        ("bad", "param"),
        [
            ({"type": "function"}, "function"),
            ({"type": "function", "function": {}}, "function.name"),
            ({"type": "function", "function": {"name": "f"}, "x": 1}, "x"),
            (tool(paramters={}), "function.paramters"),
            (tool(parameters=[]), "function.parameters"),
            (tool(parameters="{}"), "function.parameters"),
            (tool(strict="yes"), "function.strict"),
            (tool(parameters={"a": 10**30}), "function.parameters"),
            (tool(parameters=json.loads('{"a":' * 80 + "1" + "}" * 80)), "function.parameters"),
        ],
    )
    def test_a_bad_tool_is_named(self, bad, param):
        assert refusal(tools=[bad]).param == f"tools[0].{param}"

    @pytest.mark.parametrize("bad", [{"type": "web_search"}, {"type": "mcp"}])
    @pytest.mark.parametrize("others", [[], [{"function": {"name": "f"}}]])
    def test_tools_of_other_types_are_left_out_and_told(self, bad, others):
        ignored = Ignored()
        tools = generation_of(decode(ignored, tools=[bad, *others])).tools
        assert [tool["name"] for tool in tools.functions] == (["f"] if others else [])
        assert ignored.names == [f"tools[].type={bad['type']}"]

    def test_how_many(self):
        decode(tools=[tool(name=f"f{i}") for i in range(MAX_TOOLS)])
        assert refusal(tools=[tool()] * (MAX_TOOLS + 1)).param == "tools"

    @pytest.mark.parametrize(
        ("choice", "param"),
        [
            ("sometimes", "tool_choice"),
            ({"type": "function", "function": {"name": "other"}}, "tool_choice.function.name"),
            ({"type": "function"}, "tool_choice.function"),
            ({"type": "function", "function": {}}, "tool_choice.function.name"),
            ({"type": "function", "name": "weather"}, "tool_choice.name"),
            ({"type": "mcp", "function": {"name": "weather"}}, "tool_choice.type"),
            ({"type": "custom", "custom": {"name": "other"}}, "tool_choice.custom.name"),
            ({"type": "custom"}, "tool_choice.custom"),
            ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
            (allowed("auto"), "tool_choice.allowed_tools.tools"),
            (allowed("never", "time"), "tool_choice.allowed_tools.mode"),
            (allowed("auto", "time", "other"), "tool_choice.allowed_tools.tools"),
            (
                {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}]}},
                "tool_choice.allowed_tools.tools[0].function.name",
            ),
            ({**NAMED, **allowed("auto", "time")}, "tool_choice.function"),
            ({**allowed("auto", "time"), **NAMED}, "tool_choice.allowed_tools"),
        ],
    )
    def test_a_bad_choice_is_named(self, choice, param):
        assert refusal(tools=TOOLS, tool_choice=choice).param == param

    @pytest.mark.parametrize("choice", ["required", NAMED, allowed("auto", "time")])
    @pytest.mark.parametrize("tools", [None, []])
    def test_what_demands_a_call_needs_tools(self, choice, tools):
        assert refusal(tools=tools, tool_choice=choice).param.startswith("tool_choice")


class TestCustom:
    TOOL: ClassVar = {
        "type": "custom",
        "custom": {
            "name": "patch",
            "description": "Applies it.",
            "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}},
        },
    }

    def test_it_is_a_function_with_one_text(self):
        (function,) = tool_use(tools=[self.TOOL]).functions
        assert (function["name"], function["parameters"]["required"]) == ("patch", ["input"])
        wanted = "Applies it.\n\nThe input follows this grammar:\nstart: X"
        assert function["description"] == wanted

    @pytest.mark.parametrize("more", [{}, {"format": None}, {"format": {"type": "text"}}])
    def test_it_needs_no_grammar(self, more):
        ignored = Ignored()
        decode(ignored, tools=[{"type": "custom", "custom": {"name": "patch", **more}}])
        assert ignored.names == []

    def test_it_can_be_demanded(self):
        choice = {"type": "custom", "custom": {"name": "patch"}}
        use = tool_use(tools=[*TOOLS, self.TOOL], tool_choice=choice)
        assert (use.mode, use.name) == ("named", "patch")
        only = {"mode": "required", "tools": [choice]}
        allowed = {"type": "allowed_tools", "allowed_tools": only}
        use = tool_use(tools=[*TOOLS, self.TOOL], tool_choice=allowed)
        assert (use.mode, [f["name"] for f in use.functions]) == ("required", ["patch"])

    def test_one_without_a_name_is_refused(self):
        assert refusal(tools=[{"type": "custom", "custom": {}}]).param == "tools[0].custom.name"
        assert refusal(tools=[{"type": "custom"}]).param == "tools[0].custom"


class TestUse:
    @pytest.mark.parametrize(
        "fields",
        [{}, {"tools": []}, {"tool_choice": "auto"}, {"tools": TOOLS, "tool_choice": "none"}],
    )
    def test_none(self, fields):
        use = tool_use(**fields)
        assert use == NO_TOOLS
        assert (use.mode, use.tools, use.functions, calls_constraint(use)) == ("none", [], [], None)

    @pytest.mark.parametrize("choice", [None, "auto"])
    def test_auto(self, choice):
        use = tool_use(tools=TOOLS, tool_choice=choice)
        assert (use.mode, use.name, use.parallel, calls_constraint(use)) == (
            "auto",
            None,
            True,
            None,
        )
        assert [f["name"] for f in use.functions] == ["weather", "time"]

    def test_tools_are_described_in_one_format(self):
        # As vLLM shows them: always these fields in this order, `strict` only if it was given.
        sent = {"function": {"parameters": SCHEMA, "name": "f"}, "type": "function"}
        use = tool_use(tools=[sent, TIME])
        assert json.dumps(use.tools[0]) == json.dumps(
            {
                "type": "function",
                "function": {"name": "f", "description": None, "parameters": SCHEMA},
            }
        )
        assert use.functions[1] == {
            "name": "time",
            "description": None,
            "parameters": None,
            "strict": True,
        }

    @pytest.mark.parametrize(("given", "parallel"), [(None, True), (True, True), (False, False)])
    def test_parallel(self, given, parallel):
        assert tool_use(tools=TOOLS, parallel_tool_calls=given).parallel is parallel

    @pytest.mark.parametrize("mode", ["auto", "required"])
    def test_allowed_tools_are_the_only_ones(self, mode):
        use = tool_use(tools=TOOLS, tool_choice=allowed(mode, "time"))
        assert use.mode == mode
        assert [f["name"] for f in use.functions] == ["time"]


def call_schema(**fields: Any) -> Any:
    structured = calls_constraint(tool_use(**fields))
    assert structured is not None
    assert structured.output.kind == "json"
    return json.loads(structured.output.value)


class TestForm:
    def test_a_named_function_has_its_schema(self):
        assert call_schema(tools=TOOLS, tool_choice=NAMED) == SCHEMA
        assert tool_use(tools=TOOLS, tool_choice=NAMED).name == "weather"

    @pytest.mark.parametrize("parameters", [None, {}])
    def test_without_parameters_it_is_an_object(self, parameters):
        named = {"type": "function", "function": {"name": "f"}}
        given = {} if parameters is None else {"parameters": parameters}
        assert call_schema(tools=[tool(**given)], tool_choice=named) == {
            "type": "object",
            "properties": {},
        }

    def test_required_is_a_list_of_calls(self):
        assert call_schema(tools=TOOLS, tool_choice="required") == {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "anyOf": [
                    {
                        "properties": {
                            "name": {"type": "string", "enum": ["weather"]},
                            "parameters": SCHEMA,
                        },
                        "required": ["name", "parameters"],
                    },
                    {
                        "properties": {
                            "name": {"type": "string", "enum": ["time"]},
                            "parameters": {"type": "object", "properties": {}},
                        },
                        "required": ["name", "parameters"],
                    },
                ],
            },
        }

    def test_of_which_there_may_be_one_only(self):
        assert (
            call_schema(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)["maxItems"]
            == 1
        )
        assert "maxItems" not in call_schema(
            tools=TOOLS, tool_choice="required", parallel_tool_calls=True
        )

    def test_definitions_move_to_the_root(self):
        point = {"type": "object"}
        one = {**SCHEMA, "$defs": {"point": point}}
        other = {**SCHEMA, "$defs": {"point": point, "line": {"type": "array"}}}
        request = decode(
            tools=[tool(name="a", parameters=one), tool(name="b", parameters=other)],
            tool_choice="required",
        )
        use = generation_of(request).tools
        schema = json.loads(calls_constraint(use).output.value)
        assert schema["$defs"] == {"point": point, "line": {"type": "array"}}
        assert all(c["properties"]["parameters"] == SCHEMA for c in schema["items"]["anyOf"])
        # The description for the model keeps everything.
        assert use.functions[0]["parameters"] == one
        assert calls_constraint(use) == calls_constraint(generation_of(request).tools)

    @pytest.mark.parametrize(
        ("definitions", "param"),
        [
            ({"point": {"type": "array"}}, "tools[1].function.parameters.$defs.point"),
            ([], "tools[1].function.parameters.$defs"),
        ],
    )
    def test_definitions_that_do_not_fit_together_are_refused(self, definitions, param):
        request = decode(
            tools=[
                tool(name="a", parameters={"$defs": {"point": {"type": "object"}}}),
                tool(name="b", parameters={"$defs": definitions}),
            ],
            tool_choice="required",
        )
        with pytest.raises(InvalidValueError) as caught:
            calls_constraint(generation_of(request).tools)
        assert caught.value.param == param

    def test_of_two_of_a_name_the_last(self):
        same = [tool(parameters={"title": "1"}), tool(parameters={"title": "2"})]
        named = {"type": "function", "function": {"name": "f"}}
        assert call_schema(tools=same, tool_choice=named) == {"title": "2"}
