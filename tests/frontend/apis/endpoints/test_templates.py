"""Models whose chat template takes little, through the app: any order of messages, and tools."""

import json
from typing import Any

import pytest

from tests.frontend.gateway import post
from tests.frontend.pipeline.test_normalise import DROPS, GEMMA, MISTRAL, PLAIN, SYSTEM_FIRST
from vgate.config.model import Model

# The dry run's vocabulary has no such token.
SOURCES = [GEMMA, MISTRAL.replace("eos_token", "'</s>'"), DROPS, SYSTEM_FIRST, PLAIN]
NAMES = ["gemma", "mistral", "drops", "system_first", "plain"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
MADE = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
# A conversation that none of the templates takes as it is.
WILD = [
    {"role": "assistant", "content": "Hello."},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [MADE]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
    {"role": "developer", "content": "In French."},
    {"role": "critic", "content": "And tomorrow?"},
]


@pytest.fixture(params=SOURCES, ids=NAMES)
def model(request, tmp_path) -> Model:
    """The dry run's vocabulary with a template."""
    path = tmp_path / "template.jinja"
    path.write_text(request.param)
    return Model(chat_template=str(path), max_model_len=8192)


async def prompt_of(gateway: Any, **fields: Any) -> str:
    """Return the prompt of a chat request as text."""
    tokens = (await post(gateway, "/tokenize", fields)).json["tokens"]
    text: str = (await post(gateway, "/detokenize", {"tokens": tokens})).json["prompt"]
    return text


def test_any_order_is_served_and_shown_in_full(serve, model):
    async def scenario(gateway):
        for tools in ([], TOOLS):
            answer = await gateway.chat(messages=WILD, tools=tools, max_tokens=4)
            assert answer.status == 200, answer.body
            prompt = await prompt_of(gateway, messages=WILD, tools=tools)
            for message in WILD:
                assert message["content"] is None or message["content"] in prompt
            assert CALL in prompt
            assert ("# Tools" in prompt) is bool(tools)
            assert json.dumps(TOOLS[0]["function"]["parameters"]) in prompt or not tools

    serve(scenario, model=model)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_read_in_the_format_that_the_model_is_told(serve, model, stream):
    async def scenario(gateway):
        # The dry run repeats the prompt of a template without special tokens.
        answer = await gateway.chat(
            f"Say {CALL}", tools=TOOLS, max_tokens=4096, stream=stream, ignore_eos=False
        )
        assert answer.status == 200
        if stream:
            chunks = [json.loads(event) for event in answer.events[:-1]]
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            parts = [p for delta in deltas for p in delta.get("tool_calls") or ()]
            functions = [part["function"] for part in parts]
            names = [f["name"] for f in functions if f.get("name")]
            arguments = "".join(f.get("arguments") or "" for f in functions)
        else:
            (choice,) = answer.json["choices"]
            made = choice["message"]["tool_calls"]
            assert choice["finish_reason"] == "tool_calls"
            names = [call["function"]["name"] for call in made]
            arguments = "".join(call["function"]["arguments"] for call in made)
        assert names == ["weather"]
        assert json.loads(arguments) == {"city": "Paris"}

    serve(scenario, model=model)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_demanded_calls_follow_the_schema(serve, model, choice):
    async def scenario(gateway):
        answer = await gateway.chat(tools=TOOLS, tool_choice=choice, max_tokens=200)
        (made,) = answer.json["choices"][0]["message"]["tool_calls"]
        assert made["function"]["name"] == "weather"
        assert set(json.loads(made["function"]["arguments"])) == {"city"}

    serve(scenario, model=model)


def test_every_api_serves_tools(serve, model):
    async def scenario(gateway):
        name = gateway.config.model.served_names[0]
        schema = TOOLS[0]["function"]["parameters"]
        turns = [{"role": "user", "content": "Hi"}]
        messages = {"model": name, "max_tokens": 4, "messages": turns}
        tools = [{"name": "weather", "input_schema": schema}]
        assert (await post(gateway, "/v1/messages", {**messages, "tools": tools})).status == 200
        responses = {"model": name, "max_output_tokens": 16, "input": "Hi"}
        tools = [{"type": "function", "name": "weather", "parameters": schema}]
        assert (await post(gateway, "/v1/responses", {**responses, "tools": tools})).status == 200

    serve(scenario, model=model)


def test_a_format_that_cannot_be_read_is_replaced_only_where_the_model_may_choose(serve, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text(f"{{% if tools %}}OWN FORMAT{{% endif %}}{PLAIN}")

    async def scenario(gateway):
        hi = [{"role": "user", "content": "Hi"}]
        told = await prompt_of(gateway, messages=hi, tools=TOOLS)
        assert ("OWN FORMAT" in told, "# Tools" in told) == (False, True)
        own = await prompt_of(gateway, messages=hi, tools=TOOLS, tool_choice="required")
        assert ("OWN FORMAT" in own, "# Tools" in own) == (True, False)
        assert (await gateway.chat(tools=TOOLS)).status == 200

    serve(scenario, model=Model(chat_template=str(path), max_model_len=8192))


def test_an_operator_who_wants_no_parser_gets_none(serve, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text(PLAIN)

    async def scenario(gateway):
        refused = await gateway.chat(tools=TOOLS)
        assert (refused.status, refused.error["param"]) == (400, "tools")
        assert "set model.tool_parser" in refused.error["message"]

    serve(scenario, model=Model(chat_template=str(path), tool_parser="none"))
