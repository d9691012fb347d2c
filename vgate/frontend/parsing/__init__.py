"""Generated text to reasoning, content and tool calls.

A parser takes text in parts of any size; `TOOL_PARSERS` has one for each format of tool calls.
"""

from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.families import (
    PLAIN_TOOL_PARSER,
    TOOL_PARSERS,
    detect_tool_parser,
    tool_parser_problem,
)
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.json_text import is_json_object
from vgate.frontend.parsing.reasoning import ReasoningParser, detect_reasoning, initial_state
from vgate.frontend.parsing.tool_parser import ToolParser

__all__ = [
    "PLAIN_TOOL_PARSER",
    "TOOL_PARSERS",
    "NamedCall",
    "OutputParser",
    "ReasoningParser",
    "RequiredCalls",
    "ToolParser",
    "detect_reasoning",
    "detect_tool_parser",
    "initial_state",
    "is_json_object",
    "tool_parser_problem",
]
