"""The output for complete texts equals that of vLLM's own parsers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frontend.parsing.samples import (
    DEEPSEEK_CALL,
    DEEPSEEK_V31_CALL,
    NOW,
    OSLO,
    PARIS,
    PARSERS,
    TOOLS,
    deepseek,
    parse,
)
from vgate.frontend.parsing.families.harmony import marked

PROBE_TIMEOUT_S = 300
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROBE_TIMEOUT_S + 30)]

# OSLO without vLLM's markers: vLLM ends a call at them, even in a string.
BERGEN = ("get_weather", '{"city": "Bergen é😀\\n\\"", "place": {"a": [1, {"b": "}\\""}]}}')

LLAMA_PARIS = f'{{"name": "get_weather", "parameters": {PARIS[1]}}}'


def hermes(*calls, word="arguments"):
    bodies = [f'{{"name": "{name}", "{word}": {arguments}}}' for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


def coder(name, **values):
    parameters = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items()
    )
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


# vLLM's parser, ours, and the text.
CASES = [
    ("hermes", "hermes", "no call"),
    ("hermes", "hermes", hermes(PARIS)),
    ("hermes", "hermes", "Look:\n\n" + hermes(PARIS, NOW, BERGEN)),
    ("hermes", "hermes", hermes(PARIS).removesuffix("\n</tool_call>")),
    ("hermes", "hermes", "<tool_call>\nnothing\n</tool_call>"),
    ("hermes", "hermes", '<tool_call>{"arguments": {}, "name": "get_time"}</tool_call>'),
    ("hermes", "hermes", '<tool_call>{"name": "get_time", "arguments": null}</tool_call>'),
    ("qwen3_coder", "qwen3_coder", "no call"),
    ("qwen3_coder", "qwen3_coder", coder("get_weather", city="Paris", days="3", hourly="True")),
    ("qwen3_coder", "qwen3_coder", coder("get_weather", days="many", hourly="no", unit="NULL")),
    ("qwen3_coder", "qwen3_coder", coder("get_weather", days="3.5", place="[1", other="7")),
    ("qwen3_coder", "qwen3_coder", coder("get_weather", days=" 7 ", place='{"a": {"b": []}}')),
    ("qwen3_coder", "qwen3_coder", coder("get_weather", city='\n a "b" \\ é😀 <x> \n', unit="c")),
    ("qwen3_coder", "qwen3_coder", "So: " + coder("get_time") + "\n" + coder("unheard_of", a="1")),
    ("qwen3_coder", "qwen3_coder", "<function=get_time>\n</function>"),
    ("llama3_json", "llama3_json", "no call"),
    ("llama3_json", "llama3_json", '{"name": "get_time", "parameters": {}}'),
    ("llama3_json", "llama3_json", f'<|python_tag|>{{"name": "f", "arguments": {BERGEN[1]}}}'),
    ("llama3_json", "llama3_json", f'{LLAMA_PARIS}; {{"name": "get_time", "arguments": {{}}}}'),
    ("pythonic", "pythonic", "no call"),
    ("pythonic", "pythonic", "[get_weather(city='Pa\\'ris', days=-3), get_time()]"),
    ("pythonic", "pythonic", "[get_weather(place={'a': (1, None, false)}, hourly=True)]"),
    ("pythonic", "pythonic", "[1, 2]"),
    ("deepseek_v3", "deepseek_v3", "no call"),
    ("deepseek_v3", "deepseek_v3", "So" + deepseek(DEEPSEEK_CALL, PARIS, NOW, between="\n")),
    ("deepseek_v31", "deepseek_v3", "So" + deepseek(DEEPSEEK_V31_CALL, OSLO, NOW)),
    *[
        (parser, "inside", text)
        for parser in ("qwen3", "deepseek_r1")
        for text in (
            "\nThink\n</think>\n\nSay",
            "<think>\n\nThink \n\n</think> Say \n",
            "Think",
            "Think</think>",
            "\n\n</think>\n\nSay",
        )
    ],
]
HARMONY_CALL = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
NEXT = "<|start|>assistant"
CASES += [
    ("harmony", "harmony", text)
    for text in (
        "<|channel|>final<|message|>Say \n<|return|>",
        f"<|channel|>analysis<|message|>Think<|end|>{NEXT}<|channel|>final<|message|>Say<|return|>",
        f"<|channel|>analysis<|message|>Think<|end|>{NEXT}{HARMONY_CALL}{BERGEN[1]}<|call|>",
        f"<|channel|>commentary<|message|>Look<|end|>{NEXT}{HARMONY_CALL}{PARIS[1]}<|call|>",
        " to=functions.get_time<|channel|>commentary json<|message|>{}<|call|>",
        "<|channel|>analysis to=functions.get_time code<|message|>{}<|call|>",
        "<|channel|>commentary to=get_time<|message|>{}<|call|>",
        "<|channel|>analysis<|message|>Think",
        f"<|channel|>final<|message|>Say<|end|>{NEXT}<|channel|>final<|message|>More<|return|>",
    )
]


@pytest.fixture(scope="module")
def answers(tiny_model_dir: Path) -> list:
    asked = {"tools": TOOLS, "cases": [(theirs, text) for theirs, _, text in CASES]}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.frontend.parsing.vllm_probe", str(tiny_model_dir)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env=environment,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("number", range(len(CASES)))
def test_output_equals_vllms(answers, number):
    theirs, ours, text = CASES[number]
    content, reasoning, calls = answers[number]
    output = parse(PARSERS[ours](), marked(text) if ours == "harmony" else text)
    # vLLM's engine-based parsers strip the content beside calls; ours never do.
    strips = theirs == "qwen3_coder" and bool(calls)
    assert (output.content.strip() if strips else output.content) == content
    assert output.reasoning == reasoning
    assert [(name, json.loads(arguments)) for name, arguments in output.calls] == [
        (name, json.loads(arguments)) for name, arguments in calls
    ]
