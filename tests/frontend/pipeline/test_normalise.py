"""Conversations are changed until a template takes them, and no further."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.errors import InvalidValueError
from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import MadeCall, Message
from vgate.frontend.pipeline.normalise import describe_tools, render_normalised
from vgate.frontend.pipeline.render import template_message
from vgate.frontend.text import ChatTemplate

# As Google's Gemma 2 and 3: no system role, strictly alternating turns.
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}\
{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

# As Mistral 7B v0.2: no system role either, and other words.
MISTRAL = """{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
{% endfor %}"""

# As Mistral v3: tools, ids of nine characters, and turns that alternate around calls.
MISTRAL_TOOLS = """{%- if messages[0]["role"] == "system" %}\
{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}\
{%- else %}{%- set loop_messages = messages %}{%- endif %}\
{%- set ns = namespace() %}{%- set ns.index = 0 %}\
{%- for message in loop_messages %}\
{%- if not (message.role == "tool" or message.role == "tool_results" \
or (message.tool_calls is defined and message.tool_calls is not none)) %}\
{%- if (message["role"] == "user") != (ns.index % 2 == 0) %}\
{{- raise_exception("After the optional system message, conversation roles must alternate") }}\
{%- endif %}{%- set ns.index = ns.index + 1 %}{%- endif %}{%- endfor %}\
{{- bos_token }}\
{%- for message in loop_messages %}\
{%- if message["role"] == "user" %}\
{%- if tools is not none and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}\
{%- endif %}\
{{- "[INST] " }}{%- if loop.last and system_message is defined %}{{- system_message + "\\n\\n" }}\
{%- endif %}{{- message["content"] + "[/INST]" }}\
{%- elif message.tool_calls is defined and message.tool_calls is not none %}\
{{- "[TOOL_CALLS] [" }}{%- for tool_call in message.tool_calls %}\
{{- tool_call.function | tojson }}\
{%- if not tool_call.id is defined or tool_call.id | length != 9 %}\
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}\
{{- ', "id": "' + tool_call.id + '"}' }}{%- endfor %}{{- "]" + eos_token }}\
{%- elif message["role"] == "assistant" %}{{- " " + message["content"] + eos_token }}\
{%- elif message["role"] == "tool_results" or message["role"] == "tool" %}\
{{- '[TOOL_RESULTS] {"content": ' + message.content | string + '}[/TOOL_RESULTS]' }}\
{%- else %}{{- raise_exception("Only user and assistant roles are supported") }}\
{%- endif %}{%- endfor %}"""

# As Llama 3.1: one call at a time, any order of roles.
LLAMA = """{{- bos_token }}{%- for message in messages %}\
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'\
+ message['content'] | trim + '<|eot_id|>' }}\
{%- elif 'tool_calls' in message %}{%- if not message.tool_calls | length == 1 %}\
{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}\
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "'\
+ message.tool_calls[0].function.name + '", "parameters": '\
+ message.tool_calls[0].function.arguments | tojson + '}<|eot_id|>' }}\
{%- else %}{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content }}\
{%- endif %}{%- endfor %}{%- if tools %}{{ tools | tojson }}{%- endif %}"""

# As Phi-3: what it doesn't know, it drops.
DROPS = """{% for message in messages %}{% if message['role'] == 'user' %}\
{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}{% elif message['role'] == 'assistant' %}\
{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

# As Qwen 3.5: the system message first, or not at all.
SYSTEM_FIRST = """{% for message in messages %}{% if message.role == 'system' %}\
{% if not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif %}\
{% elif message.role not in ('user', 'assistant') %}\
{{ raise_exception('Unexpected message role.') }}{% endif %}\
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"""

# ChatML: text only, any role.
PLAIN = """{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

KINDS = {
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "mistral_tools": MISTRAL_TOOLS,
    "llama": LLAMA,
    "drops": DROPS,
    "system_first": SYSTEM_FIRST,
    "plain": PLAIN,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def said(*roles: str) -> list[Message]:
    """Return messages whose texts are a, b, c and so on."""
    return [Message(role, chr(ord("a") + n)) for n, role in enumerate(roles)]


def show(
    source: str | ChatTemplate, messages: list[Message], *, whole: bool = True, **more: Any
) -> str:
    template = compiled(source) if isinstance(source, str) else source

    def render(messages: list[Message]) -> str:
        return template.render([template_message(m) for m in messages], **more)

    def probe(messages: list[Message], tools: list[dict[str, Any]]) -> str:
        return template.render([template_message(m) for m in messages], tools=tools)

    return render_normalised(
        template, messages, render, probe, tools=bool(more.get("tools")), whole=whole
    )


def as_it_is(source: str, messages: list[Message], **more: Any) -> str:
    return compiled(source).render([template_message(m) for m in messages], **more)


def call(*names: str, content: str = "") -> Message:
    calls = [MadeCall(f"call_{name}", name, {"x": 1}) for name in names]
    return Message("assistant", content, tool_calls=calls)


def result(name: str, content: str) -> Message:
    return Message("tool", content, tool_call_id=f"call_{name}")


class TestSteps:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("turns", [1, 2, 3, 8])
    def test_what_every_template_takes_stays_as_it_is(self, kind, turns):
        messages = said(*["user", "assistant"] * turns)[: 2 * turns - 1]
        assert show(KINDS[kind], messages) == as_it_is(KINDS[kind], messages)

    @pytest.mark.parametrize(
        "roles",
        [
            ["system", "system", "user"],
            ["user", "user", "assistant", "system", "assistant"],
            ["assistant", "user", "critic"],
        ],
    )
    def test_a_template_that_takes_all_gets_all_as_it_is(self, roles):
        assert show(PLAIN, said(*roles)) == as_it_is(PLAIN, said(*roles))

    def test_later_system_messages_move_to_the_front(self):
        shown = show(SYSTEM_FIRST, said("system", "user", "assistant", "system", "user", "user"))
        merged = [
            Message("system", "a\n\nd"),
            Message("user", "b"),
            Message("assistant", "c"),
            Message("user", "e"),
            Message("user", "f"),
        ]
        assert shown == as_it_is(SYSTEM_FIRST, merged)

    @pytest.mark.parametrize("source", [GEMMA, MISTRAL, DROPS])
    def test_the_user_says_what_no_system_may(self, source):
        shown = show(source, said("system", "user", "assistant", "user"))
        folded = [Message("user", "a\n\nb"), Message("assistant", "c"), Message("user", "d")]
        assert shown == as_it_is(source, folded)

    @pytest.mark.parametrize("source", [GEMMA, MISTRAL])
    def test_turns_of_one_role_are_joined(self, source):
        shown = show(source, said("user", "user", "assistant", "assistant", "user"))
        joined = [Message("user", "a\n\nb"), Message("assistant", "c\n\nd"), Message("user", "e")]
        assert shown == as_it_is(source, joined)

    @pytest.mark.parametrize("source", [GEMMA, MISTRAL])
    def test_an_empty_turn_precedes_the_assistant_s(self, source):
        shown = show(source, said("assistant", "user"))
        assert shown == as_it_is(source, [Message("user"), *said("assistant", "user")])

    def test_only_a_system_message(self):
        assert show(GEMMA, said("system")) == as_it_is(GEMMA, said("user"))

    @pytest.mark.parametrize("source", [GEMMA, MISTRAL, SYSTEM_FIRST, DROPS])
    def test_unknown_roles_are_the_user(self, source):
        assert show(source, said("critic")) == as_it_is(source, said("user"))

    def test_one_call_at_a_time(self):
        messages = [*said("user"), call("f", "g"), result("f", "1"), result("g", "2")]
        shown = show(LLAMA, messages, tools=[TOOL])
        single = [*said("user"), call("f"), result("f", "1"), call("g"), result("g", "2")]
        assert shown == as_it_is(LLAMA, single, tools=[TOOL])

    def test_ids_that_a_template_refuses(self):
        messages = [*said("user"), call("look"), result("look", "1")]
        shown = show(MISTRAL_TOOLS, messages, tools=[TOOL])
        assert "[TOOL_CALLS] [" in shown
        assert "[TOOL_RESULTS]" in shown

    @pytest.mark.parametrize("source", [GEMMA, MISTRAL, DROPS, SYSTEM_FIRST, PLAIN])
    def test_calls_and_results_are_text_where_the_template_shows_none(self, source):
        messages = [*said("user"), call("look", content="Wait"), result("look", "1")]
        shown = show(source, messages)
        assert 'Wait\n<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>' in shown
        assert "<tool_response>\n1\n</tool_response>" in shown

    def test_calls_in_an_order_that_the_template_refuses_are_text(self):
        messages = [*said("user"), call("look"), result("look", "1"), Message("user", "And?")]
        shown = show(MISTRAL_TOOLS, messages)
        assert "<tool_response>\n1\n</tool_response>\n\nAnd?" in shown

    def test_arguments_that_a_template_refuses_are_text(self):
        source = PLAIN.replace(
            "{% endfor %}",
            "{% for c in message.tool_calls %}{{ c.function.name }}"
            "{% for k, v in c.function.arguments.items() %}{{ k }}{% endfor %}{% endfor %}"
            "{% endfor %}",
        )
        broken = Message("assistant", tool_calls=[MadeCall("1", "look", "{x")])
        assert r'"arguments": "{x"' in show(source, [*said("user"), broken])

    def test_the_message_to_be_continued_stays_the_last(self):
        shown = show(
            GEMMA,
            said("system", "user", "assistant", "assistant"),
            add_generation_prompt=False,
            continue_final_message=True,
        )
        assert shown.endswith("<start_of_turn>model\nc\n\nd")

    def test_a_client_s_own_template_may_leave_messages_out(self):
        only = "{{ messages[0].content }}"
        assert show(only, said("system", "user"), whole=False) == "a"

    def test_what_no_form_satisfies_is_refused_in_the_template_s_words(self):
        with pytest.raises(InvalidValueError, match="refuses these messages: never") as caught:
            show("{{ raise_exception('never') }}", said("system", "user"))
        assert caught.value.param == "messages"

    def test_tests_are_made_once_for_a_shape(self, monkeypatch):
        template = compiled(GEMMA)
        rendered = []
        render = template.render
        monkeypatch.setattr(
            template, "render", lambda *a, **more: rendered.append(a) or render(*a, **more)
        )
        show(template, said("system", "user"))
        assert len(rendered) > 1
        rendered.clear()
        show(template, [Message("system", "x"), Message("user", "y")])
        assert len(rendered) == 1


ROLES = st.lists(
    st.sampled_from(["system", "user", "assistant", "tool", "critic", "call", "calls"]),
    min_size=1,
    max_size=10,
)


def of_roles(roles: list[str]) -> list[Message]:
    messages = []
    for n, role in enumerate(roles):
        if role.startswith("call"):
            messages.append(call(*["f", "g"][: len(role) - 3]))
        elif role == "tool":
            messages.append(result("f", f"text{n}."))
        else:
            messages.append(Message(role, f"text{n}."))
    return messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_every_order_renders_in_full(kind, tools):
    template = compiled(KINDS[kind])

    @settings(deadline=None)
    @given(ROLES)
    def check(roles):
        messages = of_roles(roles)
        if "tools" in template.variables:
            shown = show(template, messages, tools=tools)
        else:
            shown = show(template, describe_tools(messages, tools) if tools else messages)
        for message in messages:
            assert message.tool_calls or message.content in shown
            for made in message.tool_calls:
                assert f'"name": "{made.name}"' in shown

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_shows_in_full_is_never_changed(kind):
    template = compiled(KINDS[kind])

    @settings(deadline=None)
    @given(ROLES)
    def check(roles):
        messages = of_roles([role for role in roles if not role.startswith("call")] or ["user"])
        try:
            expected = as_it_is(KINDS[kind], messages)
        except InvalidValueError:
            return
        if all(message.content in expected for message in messages):
            assert show(template, messages) == expected

    check()


class TestDescription:
    def test_it_is_a_system_message(self):
        system, user = describe_tools(said("user"), [TOOL])
        assert (system.role, user) == ("system", said("user")[0])
        assert json.dumps(TOOL) in system.content.split("\n")
        assert "<tool_call>\n{" in system.content

    def test_it_follows_the_client_s_own(self):
        system, _ = describe_tools([Message("system", "Be {kind}."), *said("user")], [TOOL, TOOL])
        assert system.content.startswith("Be {kind}.\n\n# Tools\n")
        assert system.content.count(json.dumps(TOOL)) == 2

    def test_a_request_s_own_history_reads_as_it_was_written(self):
        body = {
            "model": "m",
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "look", "arguments": '{"é": [1]}'}}],
                },
                {"role": "tool", "content": "5"},
            ],
        }
        prompt = generation_of(decode_chat(json.dumps(body).encode(), Ignored())).prompt
        _, _, made, answer = describe_tools(prompt.messages, [TOOL])
        assert made.content == (
            '<tool_call>\n{"name": "look", "arguments": {"é": [1]}}\n</tool_call>'
        )
        assert (answer.role, answer.content) == ("user", "<tool_response>\n5\n</tool_response>")
