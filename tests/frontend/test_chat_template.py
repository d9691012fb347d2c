"""Templates render as they do in Hugging Face's environment, and cannot do more than render."""

from __future__ import annotations

import re
from datetime import datetime

import pytest

from tests.tiny_model.rendering import plain_environment, read_template
from tests.tiny_model.samples import CONVERSATIONS, TEXTS
from vgate.errors import InvalidValueError
from vgate.frontend.chat_template import ChatTemplate, TemplateSyntaxError

USER = [{"role": "user", "content": "Hi"}]


def render(source, messages=USER, **special_tokens):
    return ChatTemplate(source, special_tokens).render(messages)


@pytest.mark.parametrize(
    "messages", [c["messages"] for c in CONVERSATIONS if "tools" not in c], ids=len
)
def test_a_real_template_renders_as_with_jinja_alone(tiny_model_dir, messages):
    source = read_template(tiny_model_dir)
    expected = (
        plain_environment()
        .from_string(source)
        .render(messages=messages, add_generation_prompt=True, tools=None)
    )
    assert render(source, messages) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_content_is_never_changed(tiny_model_dir, text):
    rendered = render(read_template(tiny_model_dir), [{"role": "user", "content": text}])
    assert f"user\n{text}<|im_end|>" in rendered


def test_blocks_are_trimmed():
    source = "{% for m in messages %}\n    {% if m.role %}\nx\n    {% endif %}\n{% endfor %}\ny"
    assert render(source) == "x\ny"


def test_loop_controls():
    source = "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
    source += "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(source) == "013"


def test_generation_blocks_are_transparent():
    # transformers' own extension marks what the assistant wrote; templates for training have it.
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert render(source) == "Hi"


def test_tojson_is_json_and_not_html():
    value = [{"role": "user", "content": "<é> & 'x'", "b": 1, "a": [None, True]}]
    assert render("{{ messages[0] | tojson }}", value) == (
        '{"role": "user", "content": "<é> & \'x\'", "b": 1, "a": [null, true]}'
    )
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == (
        '{\n "a": 2,\n "b": 1\n}'
    )
    assert render("{{ 'é' | tojson(ensure_ascii=true) }}") == '"\\u00e9"'
    assert render("{{ [1, 2] | tojson(separators=(',', ':')) }}") == "[1,2]"


def test_strftime_now():
    rendered = render("{{ strftime_now('%Y-%m-%d %H') }}")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d", rendered)
    assert abs((datetime.now() - datetime.strptime(rendered, "%Y-%m-%d %H")).days) <= 1  # noqa: DTZ005, DTZ007 - local


def test_special_tokens_are_known_by_name():
    assert render("{{ bos_token }}{{ messages[0].content }}", bos_token="<s>") == "<s>Hi"
    assert render("{{ bos_token }}x") == "x"


def test_what_a_request_never_has_is_none():
    source = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
    assert render(source) == "TrueTrueTrue"


def test_a_refusal_of_the_template_is_the_client_s_error():
    with pytest.raises(InvalidValueError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].nothing.at.all }}",
        "{{ messages[0].content + 5 }}",
        "{{ messages | first | round }}",
        "{{ nothing() }}",
        "{{ messages[0].content | tojson(indent='x', separators=5) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ {}['x'].y }}",
        "{{ 'x'.encode('nothing') }}",
    ],
)
def test_a_template_that_fails_on_these_messages_is_the_client_s_error(source):
    with pytest.raises(InvalidValueError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_holds(source):
    messages = [{"role": "user", "content": "Hi"}]
    try:
        rendered = render(source, messages)
    except InvalidValueError:
        rendered = ""
    assert rendered == ""
    assert messages == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% nothing %}", "{% endfor %}"])
def test_a_broken_template_is_told_with_its_line(source):
    with pytest.raises(TemplateSyntaxError, match="line 2"):
        ChatTemplate(f"first\n{source}", {})


def test_rendering_leaves_nothing_behind():
    template = ChatTemplate("{% set x = messages[0].content %}{{ x }}", {})
    assert [template.render([{"content": text}]) for text in "abc"] == ["a", "b", "c"]
