"""A script for the dry-run engine: a whole loop of call, result and answer, over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.instance import Instance

SCRIPT = """
- {last: sunny, text: A fine day.}
- last: weather
  prompt: '"name": "get_weather"'
  text: I look.
  calls: [{name: get_weather, arguments: {city: Paris}}]
"""
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
    "required": ["city"],
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]


@pytest.fixture(scope="module")
def scripted(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    path = tmp_path_factory.mktemp("script") / "script.yaml"
    path.write_text(SCRIPT)
    with Instance(run_dirs, dry_run=True, dry_run__script=str(path)) as instance:
        yield instance
        assert instance.has_problem() is None


def test_a_call_its_result_and_the_answer(scripted: Instance):
    messages: Any = [{"role": "user", "content": "How is the weather?"}]
    with scripted.client() as client:

        def ask() -> Any:
            answer = client.chat.completions.create(
                model=scripted.model, messages=messages, tools=TOOLS
            )
            return answer.choices[0]

        first = ask()
        (call,) = first.message.tool_calls
        assert (first.finish_reason, first.message.content) == ("tool_calls", "I look.")
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "get_weather",
            {"city": "Paris"},
        )
        messages += [
            {"role": "assistant", "content": "I look.", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        assert ask().message.content == "A fine day."


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_must_be_made_is_the_scripts(scripted: Instance, choice: Any):
    with scripted.client() as client:
        answer = client.chat.completions.create(
            model=scripted.model,
            messages=[{"role": "user", "content": "weather"}],
            tools=TOOLS,
            tool_choice=choice,
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Paris"},
    )


def test_without_a_rule_the_last_message_comes_back(scripted: Instance):
    with scripted.client() as client:
        answer = client.chat.completions.create(
            model=scripted.model, messages=[{"role": "user", "content": "Hello!"}]
        )
    assert answer.choices[0].message.content == "Hello!"
