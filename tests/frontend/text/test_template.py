"""Templates render as they do in Hugging Face's environment, and cannot do more than render."""

import re
import time
from datetime import datetime

import pytest
from jinja2 import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.tiny_model.rendering import plain_environment, read_template
from tests.tiny_model.samples import CONVERSATIONS, TEXTS
from vgate.errors import InvalidValueError
from vgate.frontend.pipeline import TEMPLATE_FIELDS
from vgate.frontend.text.sandbox import _environment
from vgate.frontend.text.template import ChatTemplate
from vgate.frontend.text.template_errors import TemplateSyntaxError

USER = [{"role": "user", "content": "Hi"}]


def render(source, messages=USER, **special_tokens):
    return ChatTemplate(source, special_tokens).render(messages)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=str)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_real_template_renders_as_with_jinja_alone(
    tiny_model_dir, conversation, add_generation_prompt
):
    source = read_template(tiny_model_dir)
    messages, tools = conversation["messages"], conversation.get("tools")
    expected = (
        plain_environment()
        .from_string(source)
        .render(messages=messages, add_generation_prompt=add_generation_prompt, tools=tools)
    )
    template = ChatTemplate(source, {})
    rendered = template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
    assert rendered == expected


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
    fixed = ChatTemplate("{{ strftime_now('%Y-%m') }}", {}, clock=lambda: 15 * 86_400)
    assert fixed.render(USER) == "1970-01"
    assert abs((datetime.now() - datetime.strptime(rendered, "%Y-%m-%d %H")).days) <= 1  # noqa: DTZ005, DTZ007 - local


def test_special_tokens_are_known_by_name():
    assert render("{{ bos_token }}{{ messages[0].content }}", bos_token="<s>") == "<s>Hi"
    assert render("{{ bos_token }}x") == "x"


@pytest.mark.parametrize("nothing", [None, []])
def test_absent_tools_and_documents_are_none(nothing):
    source = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
    template = ChatTemplate(source, {})
    assert template.render(USER, tools=nothing, documents=nothing) == "TrueTrueTrue"


def test_tools_documents_and_further_variables():
    source = "{{ tools[0].a }}{{ documents[0].b }}{{ c }}{{ bos_token }}{{ eos_token }}"
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    rendered = template.render(
        USER, tools=[{"a": 1}], documents=[{"b": 2}], kwargs={"c": 3, "bos_token": "[s]"}
    )
    assert rendered == "123[s]</s>"


def test_further_variables_never_replace_the_requests_own():
    hidden = {"messages": [], "tools": 1, "documents": 1, "add_generation_prompt": 1}
    assert set(hidden) < TEMPLATE_FIELDS
    template = ChatTemplate("{{ messages | length }}{{ tools }}{{ add_generation_prompt }}", {})
    assert template.render(USER, kwargs=hidden) == "1NoneTrue"


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("x", set()),
        ("{{ messages }}{{ a.b }}", {"messages", "a"}),
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}", {"tools"}),
        ("{% set a = a if a is defined else 1 %}", {"a"}),
        ("{% set a = 1 %}{{ a }}{% for b in c %}{{ b }}{{ loop.index }}{% endfor %}", {"c"}),
        ("{% macro m(x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}", {"y"}),
    ],
)
def test_variables_of_a_template(source, variables):
    template = ChatTemplate(source, {})
    assert template.variables == variables
    assert template.source == source


CONTINUED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am "}]
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"


class TestContinuing:
    def continued(self, source, messages=CONTINUED):
        return ChatTemplate(source, {}).render(
            messages, add_generation_prompt=False, continue_final_message=True
        )

    def test_the_prompt_ends_with_the_message(self):
        assert self.continued(TURNS) == "<user>Hi</><assistant>I am "

    def test_a_template_that_strips_messages_strips_this_one(self):
        source = TURNS.replace("m.content", "m.content | trim")
        assert self.continued(source) == "<user>Hi</><assistant>I am"

    def test_text_after_the_messages_is_cut_off(self):
        assert self.continued(TURNS + "the end") == "<user>Hi</><assistant>I am "

    def test_the_same_text_earlier_does_not_matter(self):
        messages = [*CONTINUED, *CONTINUED]
        assert self.continued(TURNS, messages) == "<user>Hi</><assistant>I am </>" * 1 + (
            "<user>Hi</><assistant>I am "
        )

    def test_messages_are_not_modified(self):
        self.continued(TURNS)
        assert CONTINUED[1] == {"role": "assistant", "content": "I am "}

    @pytest.mark.parametrize("source", ["nothing", "{{ messages[0].content }}"])
    def test_a_template_that_does_not_show_the_message(self, source):
        with pytest.raises(InvalidValueError) as caught:
            self.continued(source)
        assert caught.value.param == "continue_final_message"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 100000000000 }}",
        "{{ 100000000000 * 'x' }}",
        "{{ [0] * 100000000000 }}",
        "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    ],
)
def test_huge_values_are_refused(source):
    with pytest.raises(InvalidValueError):
        render(source)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ '-' * 5 }}{{ 2 * 3 }}{{ 2.5 * 2 }}", "-----65.0"),
        ("{{ 2 ** 10 }}{{ 7 % 4 }}", "10243"),
        ("{{ '%s-%05d %%' % ('a', 7) }}", "a-00007 %"),
        ("{{ '%.2f' | format(0.5) }}", "0.50"),
    ],
)
def test_ordinary_operators_work(source, rendered):
    assert render(source) == rendered


@pytest.mark.parametrize(
    "source",
    [
        "{% if x %}" * 5000,
        "{{ " + "(" * 100_000,
        "{{ " + "-" * 100_000,
        "{{ a" + ".b" * 20_000 + " }}",
        "{% for i in x %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "1" * 5000 + " }}",
    ],
    ids=range(6),
)
def test_a_template_that_cannot_be_compiled_is_an_error(source):
    with pytest.raises(TemplateSyntaxError):
        ChatTemplate(source, {})


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
def test_the_error_of_a_broken_template_names_its_line(source):
    with pytest.raises(TemplateSyntaxError, match="line 2"):
        ChatTemplate(f"first\n{source}", {})


@pytest.mark.parametrize(
    "attribute", ["role", "none", "absent", "items", "get", "__class__", "fromkeys", "mro", "clear"]
)
def test_attributes_of_messages_are_those_of_the_plain_sandbox(attribute):
    message = {"role": "user", "content": "Hi", "none": None, "items": "mine", "mro": "mine"}
    ours = _environment(time.time).getattr(message, attribute)
    plain = ImmutableSandboxedEnvironment().getattr(message, attribute)
    assert type(ours) is type(plain)
    if isinstance(plain, Undefined):
        assert ours._undefined_message == plain._undefined_message
    else:
        assert ours == plain


def test_renderings_do_not_affect_each_other():
    template = ChatTemplate("{% set x = messages[0].content %}{{ x }}", {})
    assert [template.render([{"content": text}]) for text in "abc"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "source", ['{{ "\\ud800" }}', '{{ "%c" % 57000 }}', "{{ raise_exception('\\ud800') }}"]
)
def test_a_client_s_template_writes_what_can_be_read(source):
    template = ChatTemplate(source, {}, of_client=True)
    with pytest.raises(InvalidValueError) as caught:
        template.render([{"role": "user", "content": "Hi"}])
    caught.value.message.encode()
