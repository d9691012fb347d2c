"""The built-in template, from which the dry-run engine repeats the last message."""

from typing import Any

import msgspec
import pytest

from vgate.config import Config
from vgate.engine.backends.dry_run.backend import DryRunBackend
from vgate.engine.request import Request
from vgate.wire.parameters import DEFAULTS, SamplingParams

HI = {"role": "user", "content": "Hi"}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é" * 100}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "sunny"}


@pytest.mark.parametrize(
    ("messages", "options", "rendered"),
    [
        ([HI], {}, "<|user|>Hi<|end|><|assistant|>"),
        (
            [{"role": "system", "content": "s"}, HI, {"role": "assistant", "content": "a"}, HI],
            {},
            "<|system|>s<|end|><|user|>Hi<|end|><|assistant|>a<|end|><|user|>Hi<|end|><|assistant|>",
        ),
        ([HI], {"add_generation_prompt": False}, "<|user|>Hi<|end|>"),
        (
            [HI, {"role": "assistant", "content": "I am"}],
            {"add_generation_prompt": False, "continue_final_message": True},
            "<|user|>Hi<|end|><|assistant|>I am",
        ),
        (
            [{"role": "assistant", "content": "a", "reasoning_content": "r"}],
            {"add_generation_prompt": False},
            "<|assistant|><think>r</think>a<|end|>",
        ),
        (
            [CALLING],
            {"add_generation_prompt": False},
            "<|assistant|>"
            + '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>' * 2
            + "<|end|>",
        ),
        ([RESULT], {"add_generation_prompt": False}, "<|user|>sunny<|end|>"),
        (
            [HI],
            {"kwargs": {"enable_thinking": False}},
            "<|user|>Hi<|end|><|assistant|><think></think>",
        ),
        ([HI], {"kwargs": {"enable_thinking": True}}, "<|user|>Hi<|end|><|assistant|>"),
    ],
)
def test_rendered_conversations(built_in, messages, options, rendered):
    assert built_in.template.render(messages, **options) == rendered


def test_tools_come_first_each_on_a_line(built_in):
    rendered = built_in.template.render([HI], tools=[{"a": 1}, {"b": "é"}])
    system, end, rest = rendered.partition("<|end|>")
    assert system.startswith("<|system|>")
    assert system.splitlines()[-2:] == ['{"a": 1}', '{"b": "é"}']
    assert end + rest == "<|end|><|user|>Hi<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("messages", "options", "said"),
    [
        ([HI], {}, "Hi"),
        ([HI], {"kwargs": {"enable_thinking": False}}, "Hi"),
        ([HI, CALLING, RESULT], {}, "sunny"),
        (
            [HI, {"role": "assistant", "content": "I am"}],
            {"add_generation_prompt": False, "continue_final_message": True},
            "Hi",
        ),
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_engine_repeats_the_last_message(
    built_in, tools, messages: list[dict[str, Any]], options: dict[str, Any], said: str
):
    prompt = built_in.tokenizer.encode(built_in.template.render(messages, tools=tools, **options))
    config = msgspec.convert({"dry_run": {"step_ms": 0}}, Config)
    backend = DryRunBackend(config, lambda _phase: None)
    backend.add(Request("r", prompt, DEFAULTS.over(SamplingParams(max_tokens=100))))
    tokens = []
    while backend.has_work():
        for output in backend.step():
            tokens += output.token_ids
    assert built_in.tokenizer.decode(tokens) == said
