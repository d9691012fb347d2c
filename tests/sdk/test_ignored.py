"""What is ignored: the answer comes, and a header names the fields."""

from typing import Any

import openai
import pytest

from tests.sdk.conversation import MODEL, user

TOOL = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, None),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": "x"}}, None),
        ({"extra_body": {"max_token": 5}}, "max_token"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, None),
        ({"max_tokens": 40_000}, "max_tokens"),
        ({"model": "gpt-4o"}, "model"),
        ({"reasoning_effort": "lots"}, None),
        ({"extra_body": {"chat_template_kwargs": {"nobody": 1}}}, "chat_template_kwargs.nobody"),
        ({"extra_body": {"max_new_tokens": 1}}, None),
        ({"extra_body": {"guided_json": {"type": "object"}}}, None),
        ({"messages": [{"role": "user"}]}, None),
        ({"messages": [*user("hi"), {"role": "tool", "content": "x"}]}, None),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[].type=web_search"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, None),
        (
            {"messages": [{**user("hi")[0], "provider_specific_fields": {"a": 1}}]},
            "messages[].provider_specific_fields",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chat(client: openai.OpenAI, params: dict[str, Any], named: str | None, stream: bool):
    request = {"model": MODEL, "messages": user("hi"), **params}
    raw = client.chat.completions.with_raw_response.create(**request, stream=stream)
    assert raw.headers.get("x-vgate-ignored") == named
    parsed = raw.parse()
    if stream:
        assert list(parsed)[-1].choices[0].finish_reason
    else:
        assert parsed.choices[0].finish_reason


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[].type=web_search"),
        ({"extra_body": {"client_metadata": {"a": "b"}}}, "client_metadata"),
        ({"reasoning": {"effort": "medium", "summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"truncation": "auto"}, None),
        ({"max_output_tokens": 40_000}, "max_tokens"),
    ],
    ids=str,
)
def test_responses(client: openai.OpenAI, params: dict[str, Any], named: str | None):
    raw = client.responses.with_raw_response.create(model=MODEL, input="hi", **params)
    assert raw.headers.get("x-vgate-ignored") == named
    assert raw.parse().output_text == "hi"


def test_the_oldest_turns_make_room(client: openai.OpenAI):
    turns = [
        {"role": role, "content": f"{number} " + "word " * 1000}
        for number in range(10)
        for role in ("user", "assistant")
    ]
    last = {"role": "user", "content": "the last"}
    asked: dict[str, Any] = {"model": MODEL, "input": [*turns, last], "max_output_tokens": 50}
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.responses.create(**asked)
    answer = client.responses.create(**asked, truncation="auto")
    assert answer.output_text == "the last"
    # As many turns stay as fit: two more would be too much.
    assert 32_768 - 11_000 < answer.usage.input_tokens <= 32_768 - 50
