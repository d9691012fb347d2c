"""A model's formats are detected from the markers in its chat template."""

from pathlib import Path

import pytest

import tests.tiny_model
from vgate.frontend.parsing import TOOL_PARSERS, detect_reasoning, detect_tool_parser

TINY = (Path(tests.tiny_model.__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"

# Shortened published templates with their own markers.
TEMPLATES = {
    "plain ChatML": (CHATML, None, False),
    "tiny": (TINY, "hermes", False),
    "Qwen2.5": (
        CHATML
        + r"""{{- "return <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <name>,"""
        r""" \"arguments\": <object>}\n</tool_call>" }}""",
        "hermes",
        False,
    ),
    "Qwen3": (
        CHATML + """{{- '<tool_call>\\n{"name": "' }}{{- '", "arguments": ' }}"""
        "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
        "hermes",
        True,
    ),
    "Qwen3-Coder": (
        CHATML + "{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}"
        "{{- '<parameter=' + args_name + '>\\n' }}"
        """{{- '{"name": ..., "arguments": ...}' }}""",
        "qwen3_coder",
        False,
    ),
    "Hermes on Llama": (
        LLAMA + """<tool_call>\n{"name": "", "arguments": {}}\n</tool_call> "parameters": """,
        "hermes",
        False,
    ),
    "Llama 3": (LLAMA, None, False),
    "Llama 3.1": (
        LLAMA
        + """{{- 'Respond in the format {"name": function name, "parameters": dictionary of """
        """argument name and its value}.' }}{{- '"parameters": ' }}<|python_tag|>""",
        "llama3_json",
        False,
    ),
    "Llama 3.2 pythonic": (
        LLAMA
        + "put it in the format of [func_name1(params_name1=params_value1), func_name2(params)]"
        '{"name": "x", "parameters": {}}',
        "pythonic",
        False,
    ),
    "Nemotron": (
        "<TOOLCALL>[func_name1(params_name1=params_value1), func_name2(params)]</TOOLCALL>",
        None,
        False,
    ),
    "Mistral": ("{{- '[TOOL_CALLS] [' }}{{- '[AVAILABLE_TOOLS]' }}", "mistral", False),
    "Mistral newer": ("{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", "mistral", False),
    "DeepSeek-R1": (
        (
            "{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + "
            "'<｜tool▁sep｜>'}}{% set content = content.split('</think>')[-1] %}"
        ),
        "deepseek_v3",
        True,
    ),
    "GLM-4.5": (
        '<tool_call>{function-name}\n<arg_key>{arg-key}</arg_key> "arguments" <think></think>',
        None,
        True,
    ),
    "Hunyuan": ('<tool_calls><tool_call>name\n```json {"arguments": 1}```', None, False),
    "Seed-OSS": ("<seed:tool_call>\n<function=example>\n<parameter=a>", None, False),
    "MiniMax": ('<minimax:tool_call>\n<invoke name="x"> "arguments"', None, False),
    "gpt-oss": (
        (
            "{{- '<|start|>system<|message|>' }}{%- if '<|channel|>analysis<|message|>' in text %}"
            "{{- '<|start|>assistant to=functions.' + name + '<|channel|>commentary <|message|>' }}"
        ),
        "harmony",
        False,
    ),
    "Kimi": ("<|tool_calls_section_begin|><|tool_call_begin|>", None, False),
}


@pytest.mark.parametrize("model", TEMPLATES)
def test_formats_are_detected_from_the_template(model):
    template, tools, reasons = TEMPLATES[model]
    assert detect_tool_parser(template) == tools
    assert detect_reasoning(template) is reasons


def test_every_parser_is_detected_by_some_template():
    assert {tools for _, tools, _ in TEMPLATES.values()} - {None} == set(TOOL_PARSERS)


def test_which_parsers_need_special_tokens():
    special = {name for name, parser in TOOL_PARSERS.items() if parser.needs_special_tokens}
    assert special == {"harmony", "llama3_json", "mistral", "deepseek_v3"}
