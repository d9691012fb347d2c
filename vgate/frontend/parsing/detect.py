"""Detection of a model's output format from its chat template."""

from vgate.frontend.parsing.families.deepseek_v3 import DeepSeekV3ToolParser
from vgate.frontend.parsing.families.hermes import HermesToolParser
from vgate.frontend.parsing.families.llama3_json import Llama3JsonToolParser
from vgate.frontend.parsing.families.mistral import MistralToolParser
from vgate.frontend.parsing.families.pythonic import PythonicToolParser
from vgate.frontend.parsing.families.qwen3_coder import Qwen3CoderToolParser
from vgate.frontend.parsing.tool_parser import ToolParser

# Templates are tried in this order: a format that is part of another one comes after it.
TOOL_PARSERS: dict[str, type[ToolParser]] = {
    "mistral": MistralToolParser,
    "deepseek_v3": DeepSeekV3ToolParser,
    "qwen3_coder": Qwen3CoderToolParser,
    "hermes": HermesToolParser,
    "pythonic": PythonicToolParser,
    "llama3_json": Llama3JsonToolParser,
}


def detect_tool_parser(template_source: str) -> str | None:
    """Return the name of the tool parser for a chat template; None if no parser fits."""
    matching = (name for name, parser in TOOL_PARSERS.items() if parser.fits(template_source))
    return next(matching, None)


def tool_parser_problem(configured: str) -> str | None:
    """Return why `model.tool_parser` can't be used; None if it can."""
    allowed = ("auto", "none", *TOOL_PARSERS)
    if configured in allowed:
        return None
    return f"`model.tool_parser` must be one of {', '.join(allowed)}, got {configured!r}"


def detect_reasoning(template_source: str) -> bool:
    """Return whether a chat template mentions reasoning between think tags."""
    return "<think>" in template_source or "</think>" in template_source
