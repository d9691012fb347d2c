"""What a request hands to the chat template besides messages, and what is refused there."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.frontend.conftest import load
from vgate.errors import InvalidRequestError
from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation
from vgate.frontend.pipeline.render import (
    client_template,
    reasoning_kwargs,
    render,
    template_kwargs,
)
from vgate.frontend.text import ChatTemplate

TOOLS = [{"type": "function", "function": {"name": "f"}}]
EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def generation(**fields: Any) -> Generation:
    hello = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "messages": hello, **fields}).encode()
    return generation_of(decode_chat(body, Ignored()))


def of_template(source: str, ignored: Ignored | None = None, **fields: Any) -> dict[str, Any]:
    asked = generation(**fields)
    template = ChatTemplate(source, {})
    return template_kwargs(asked.prompt, template, ignored or Ignored())


def ignored_by(source: str, **fields: Any) -> list[str]:
    ignored = Ignored()
    assert of_template(source, ignored, **fields) == fields.get("chat_template_kwargs", {})
    return ignored.names


def refused(source: str, **fields: Any) -> str | None:
    with pytest.raises(InvalidRequestError) as caught:
        of_template(source, **fields)
    assert caught.value.status == 400
    return caught.value.param


@pytest.mark.parametrize("effort", EFFORTS)
class TestEffort:
    def test_a_template_that_knows_efforts_gets_it(self, effort):
        assert of_template("{{ reasoning_effort }}", reasoning_effort=effort) == {
            "reasoning_effort": effort
        }

    @pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
    def test_a_template_that_knows_a_switch_gets_it(self, effort, switch):
        source = f"{{% if not {switch} is defined %}}{{% set {switch} = true %}}{{% endif %}}"
        kwargs = of_template(f"{source}{{{{ {switch} }}}}", reasoning_effort=effort)
        assert kwargs == {switch: effort != "none"}

    def test_a_template_that_knows_both_gets_both(self, effort):
        kwargs = of_template("{{ reasoning_effort }}{{ enable_thinking }}", reasoning_effort=effort)
        assert kwargs == {"reasoning_effort": effort, "enable_thinking": effort != "none"}

    def test_a_template_that_knows_neither_ignores_it(self, effort):
        assert ignored_by("{{ messages }}", reasoning_effort=effort) == ["reasoning_effort"]


class TestClientTemplate:
    def test_it_has_the_model_s_special_tokens(self):
        template = client_template("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
        assert template.render([{"role": "user", "content": "Hi"}]) == "<s>Hi"

    def test_it_is_compiled_once(self):
        assert client_template("x", {"a": "b"}) is client_template("x", {"a": "b"})
        assert client_template("x", {"a": "b"}) is not client_template("x", {"a": "c"})

    def test_it_has_the_operator_s_variables(self):
        text = load(None, chat_template_kwargs={"a": 1, "b": 2})
        asked = generation(chat_template="{{ a }} {{ b }}", chat_template_kwargs={"b": 3})
        http: Any = SimpleNamespace(ignored=Ignored())
        assert render(asked, text, http, allow=True) == "1 3"

    @pytest.mark.parametrize("source", ["{% if %}", "{{", "{{ " + "(" * 60_000])
    def test_a_bad_one_is_the_client_s_error(self, source):
        with pytest.raises(InvalidRequestError) as caught:
            client_template(source, {})
        assert (caught.value.status, caught.value.param) == (400, "chat_template")


def test_without_an_effort_nothing_is_said():
    template = ChatTemplate("{{ reasoning_effort }}{{ enable_thinking }}", {})
    assert reasoning_kwargs(generation().prompt, template, Ignored()) == {}


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_client_s_own_variables_come_first(effort):
    off = {"enable_thinking": False}
    kwargs = of_template("{{ enable_thinking }}", reasoning_effort=effort, chat_template_kwargs=off)
    assert kwargs == off


def test_documents_that_a_template_would_leave_out_are_refused():
    documents = [{"text": "x"}]
    assert refused("{{ messages }}", documents=documents) == "documents"
    of_template("{{ documents }}{{ a }}", documents=documents)


def test_variables_that_a_template_lacks_are_ignored():
    kwargs = {"a": 1, "b": 2}
    assert ignored_by("{{ a }}", chat_template_kwargs=kwargs) == ["chat_template_kwargs.b"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": []},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "none"},
        {"documents": []},
    ],
)
def test_what_is_not_there_is_not_ignored(fields):
    assert of_template("{{ messages }}", **fields) == {}


def test_the_built_in_template_knows_tools_and_thinking(built_in):
    asked = generation(tools=TOOLS, reasoning_effort="none")
    kwargs = template_kwargs(asked.prompt, built_in.tool_template, Ignored())
    assert kwargs == {"enable_thinking": False}
