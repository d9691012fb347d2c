"""The dry-run engine's script: which rule applies, and how what it says is written."""

import json

import pytest

from tests.engine.test_dry_run import chat, make_backend, run
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.dry_run.script import Call, Rule
from vgate.wire.parameters import GenerateOptions, StructuredOutput

WEATHER = {"name": "weather", "arguments": {"city": "Köln"}}
RULES = [
    {"last": "sunny", "text": "A fine day."},
    {"last": "(?i)WEATHER", "prompt": "first.*in Köln", "text": "I look.", "calls": [WEATHER]},
]


def scripted(tmp_path, rules=RULES, suffix=".yaml"):
    path = tmp_path / f"script{suffix}"
    path.write_text(rules if isinstance(rules, str) else json.dumps(rules))
    return make_backend(script=str(path))


def answer(backend, *messages, **options) -> str:
    request = chat(*messages)
    if options:
        request.options = GenerateOptions(**options)
    ((tokens, reason),) = run(backend, request)
    assert reason == "stop"
    return bytes(tokens[:-1]).decode()


def test_the_first_rule_that_matches_applies(tmp_path):
    backend = scripted(tmp_path)
    assert answer(backend, "it is sunny") == "A fine day."
    called = f"I look.<tool_call>{json.dumps(WEATHER, ensure_ascii=False)}</tool_call>"
    assert answer(backend, "first", "yes", "the weather\nin Köln?") == called


def test_without_a_match_the_last_message_comes_back(tmp_path):
    assert answer(scripted(tmp_path), "the weather in Köln") == "the weather in Köln"


def test_a_rule_without_conditions_always_applies(tmp_path):
    assert answer(scripted(tmp_path, "- text: yes indeed\n"), "anything") == "yes indeed"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("object", WEATHER["arguments"]),
        ("array", [{"name": "weather", "parameters": {"city": "Köln"}}]),
    ],
)
def test_calls_that_must_be_made_are_the_structured_output(tmp_path, kind, expected):
    structured = StructuredOutput("json", json.dumps({"type": kind}))
    backend = scripted(tmp_path, [{"calls": [WEATHER]}])
    assert json.loads(answer(backend, "hello", structured=structured)) == expected


def test_text_is_the_structured_output_if_it_conforms(tmp_path):
    structured = StructuredOutput("json", '{"type": "object", "required": ["a"]}')
    assert (
        answer(scripted(tmp_path, [{"text": '{"a": 1}'}]), "x", structured=structured) == '{"a": 1}'
    )


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ("{}", "array"),
        ("- {say: 1}", "say"),
        ("- {last: '('}", "unterminated"),
        ("- [", "YAML|pars"),
    ],
)
def test_a_script_that_is_none_is_told_at_the_start(tmp_path, rules, what):
    with pytest.raises(BackendError, match=what):
        scripted(tmp_path, rules)


def test_a_missing_script_is_told_at_the_start():
    with pytest.raises(BackendError, match=r"/nowhere/script\.yaml"):
        make_backend(script="/nowhere/script.yaml")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(text="A fine day."), "<|channel|>final<|message|>A fine day."),
        (Rule(text="<|channel|>what"), "<|channel|>what"),
        (
            Rule(text="I look.", calls=[Call("f", {"a": 1})]),
            (
                "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
                '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'
            ),
        ),
    ],
)
def test_what_a_model_of_gpt_oss_s_format_says(rule, expected):
    assert rule.written(harmony=True) == expected
