"""Generated text to reasoning, content and tool calls.

A parser takes text in parts of any size; `TOOL_PARSERS` has one for each format of tool calls.
"""

from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.families import (
    TOOL_PARSERS,
    detect_tool_parser,
    tool_parser_problem,
)
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.reasoning import ReasoningParser, detect_reasoning, initial_state

__all__ = [
    "TOOL_PARSERS",
    "NamedCall",
    "OutputParser",
    "ReasoningParser",
    "RequiredCalls",
    "detect_reasoning",
    "detect_tool_parser",
    "initial_state",
    "tool_parser_problem",
]
