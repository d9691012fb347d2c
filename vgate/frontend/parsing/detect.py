"""Which output format a model speaks, as far as its chat template shows it."""

from __future__ import annotations

import re

from vgate.frontend.parsing.deepseek_v3 import DeepSeekV3ToolParser
from vgate.frontend.parsing.hermes import HermesToolParser
from vgate.frontend.parsing.llama3_json import Llama3JsonToolParser
from vgate.frontend.parsing.mistral import MistralToolParser
from vgate.frontend.parsing.pythonic import PythonicToolParser
from vgate.frontend.parsing.qwen3_coder import Qwen3CoderToolParser
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


def detect_tool_parser(template_source: str) -> str | None:
    """Return the name of the tool parser for a chat template, or None if it is none of ours."""
    has = template_source.__contains__
    if has("[TOOL_CALLS]"):
        return "mistral"
    if has("<｜tool▁calls▁begin｜>") and has("<｜tool▁sep｜>"):
        return "deepseek_v3"
    if has("<tool_call>"):
        if has("<function=") and has("<parameter="):
            return "qwen3_coder"
        if _ARGUMENTS_KEY.search(template_source) and not any(map(has, _OTHER_TAGS)):
            return "hermes"
        return None
    if re.search(r"\[func_name1?\(\s*param", template_source):
        return "pythonic"
    if has("<|start_header_id|>") and _PARAMETERS_KEY.search(template_source):
        return "llama3_json"
    return None


def detect_reasoning(template_source: str) -> bool:
    """Whether a chat template knows of reasoning between think marks."""
    return "<think>" in template_source or "</think>" in template_source
