"""Reasoning with the official Python client, which also returns fields that it does not know."""

from typing import Any

import openai
import pytest

from tests.sdk.conversation import MODEL, TOOLS, call, user

THOUGHT = "<think>Let me see.</think>42"


def ask(client: openai.OpenAI, text: str, **params: Any) -> Any:
    answer = client.chat.completions.create(model=MODEL, messages=user(text), **params)
    return answer.choices[0].message


def test_reasoning_is_separate_from_the_answer(client: openai.OpenAI):
    message = ask(client, THOUGHT)
    assert message.content == "42"
    assert message.reasoning_content == message.reasoning == "Let me see."


def test_streamed_reasoning_comes_first(client: openai.OpenAI):
    reasoning, text = "", ""
    for chunk in client.chat.completions.create(model=MODEL, messages=user(THOUGHT), stream=True):
        delta = chunk.choices[0].delta
        more = getattr(delta, "reasoning_content", None) or ""
        assert getattr(delta, "reasoning", None) == (more or None)
        assert not (more and text)
        reasoning += more
        text += delta.content or ""
    assert (reasoning, text) == ("Let me see.", "42")


def test_no_reasoning_is_none(client: openai.OpenAI):
    message = ask(client, "42")
    assert (message.content, message.reasoning_content) == ("42", None)


def test_unclosed_reasoning(client: openai.OpenAI):
    message = ask(client, "<think>on and on")
    assert message.content is None
    assert message.reasoning_content == "on and on"


def test_reasoning_before_a_call(client: openai.OpenAI):
    message = ask(client, "<think>Hm.</think>" + call("get_time"), tools=TOOLS)
    assert message.reasoning_content == "Hm."
    assert message.tool_calls[0].function.name == "get_time"


def test_reasoning_can_be_hidden(client: openai.OpenAI):
    message = ask(client, THOUGHT, extra_body={"include_reasoning": False})
    assert message.content == "42"
    assert getattr(message, "reasoning_content", None) is None


def test_reasoning_can_be_sent_back(client: openai.OpenAI):
    first = ask(client, THOUGHT)
    messages = [*user("x"), first, *user("and now?")]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == "and now?"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
def test_efforts(client: openai.OpenAI, effort: str):
    assert ask(client, "42", reasoning_effort=effort).content == "42"


def test_thinking_can_be_switched_off_by_the_template(client: openai.OpenAI):
    message = ask(client, "42", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert (message.content, message.reasoning_content) == ("42", None)
