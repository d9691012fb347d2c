"""The ways in which model families write tool calls: a module for each, and their registry."""

import re

from vgate.frontend.parsing.families.deepseek_v3 import DeepSeekV3ToolParser
from vgate.frontend.parsing.families.harmony import HarmonyParser
from vgate.frontend.parsing.families.hermes import HermesToolParser
from vgate.frontend.parsing.families.llama3_json import Llama3JsonToolParser
from vgate.frontend.parsing.families.mistral import MistralToolParser
from vgate.frontend.parsing.families.pythonic import PythonicToolParser
from vgate.frontend.parsing.families.qwen3_coder import Qwen3CoderToolParser
from vgate.frontend.parsing.tool_parser import ToolParser

# Templates are tried in this order: a format that is part of another one comes after it.
TOOL_PARSERS: dict[str, type[ToolParser]] = {
    "harmony": HarmonyParser,
    "mistral": MistralToolParser,
    "deepseek_v3": DeepSeekV3ToolParser,
    "qwen3_coder": Qwen3CoderToolParser,
    "hermes": HermesToolParser,
    "pythonic": PythonicToolParser,
    "llama3_json": Llama3JsonToolParser,
}
# Reads the calls of models that are told in plain text how to write them.
PLAIN_TOOL_PARSER = "hermes"


def detect_tool_parser(template_source: str) -> str | None:
    """Return the name of the tool parser for a chat template; None if no parser fits."""
    for name, parser in TOOL_PARSERS.items():
        if all(re.search(sign, template_source) for sign in parser.template_signs):
            return name
    return None


def tool_parser_problem(configured: str) -> str | None:
    """Return why `model.tool_parser` can't be used; None if it can."""
    allowed = ("auto", "none", *TOOL_PARSERS)
    if configured in allowed:
        return None
    return f"`model.tool_parser` must be one of {', '.join(allowed)}, got {configured!r}"
