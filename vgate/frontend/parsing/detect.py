"""Which output format a model matches, as far as its chat template shows it."""

from __future__ import annotations

import re
from collections.abc import Callable

from vgate.frontend.parsing.families.deepseek_v3 import DeepSeekV3ToolParser
from vgate.frontend.parsing.families.hermes import HermesToolParser
from vgate.frontend.parsing.families.llama3_json import Llama3JsonToolParser
from vgate.frontend.parsing.families.mistral import MistralToolParser
from vgate.frontend.parsing.families.pythonic import PythonicToolParser
from vgate.frontend.parsing.families.qwen3_coder import Qwen3CoderToolParser
from vgate.frontend.parsing.tool_parser import ToolParser

TOOL_PARSERS: dict[str, type[ToolParser]] = {
    "hermes": HermesToolParser,
    "qwen3_coder": Qwen3CoderToolParser,
    "llama3_json": Llama3JsonToolParser,
    "mistral": MistralToolParser,
    "pythonic": PythonicToolParser,
    "deepseek_v3": DeepSeekV3ToolParser,
}

# Other families put something else between Hermes' tags: GLM, Hunyuan.
_OTHER_TAGS = ("<arg_key>", "<tool_sep>", "<tool_calls>")
# A key of a JSON object, in a template's plain text or in a quoted string of it.
_ARGUMENTS_KEY = re.compile(r'\\?"arguments\\?"')
_PARAMETERS_KEY = re.compile(r'\\?"parameters\\?"\s*:')
# How templates of this family describe a call. Others have it between tags.
_PYTHONIC_CALL = re.compile(r"(?<!>)\[func_name1\(params_name1=")


def detect_tool_parser(template_source: str) -> str | None:
    """Return the name of the tool parser for a chat template, or None if it is none of ours."""
    for name, matches in _FAMILIES.items():
        if matches(template_source):
            return name
    return None


def _is_qwen3_coder(template: str) -> bool:
    return all(tag in template for tag in ("<tool_call>", "<function=", "<parameter="))


def _is_hermes(template: str) -> bool:
    return (
        "<tool_call>" in template
        and _ARGUMENTS_KEY.search(template) is not None
        and not any(tag in template for tag in _OTHER_TAGS)
    )


def _is_llama3_json(template: str) -> bool:
    return "<|start_header_id|>" in template and _PARAMETERS_KEY.search(template) is not None


# In this order: a format that is part of another's comes after it.
_FAMILIES: dict[str, Callable[[str], bool]] = {
    "mistral": lambda template: MistralToolParser.markers[0] in template,
    "deepseek_v3": lambda template: DeepSeekV3ToolParser.markers[0] in template,
    "qwen3_coder": _is_qwen3_coder,
    "hermes": _is_hermes,
    "pythonic": lambda template: _PYTHONIC_CALL.search(template) is not None,
    "llama3_json": _is_llama3_json,
}


def detect_reasoning(template_source: str) -> bool:
    """Whether a chat template knows of reasoning between think marks."""
    return "<think>" in template_source or "</think>" in template_source
