"""Generated text to reasoning, content and tool calls.

A parser takes text in parts of any size; `TOOL_PARSERS` has one for each format of tool calls.
"""

from vgate.frontend.parsing.base import OutputParser, Parsed
from vgate.frontend.parsing.families import (
    PLAIN_TOOL_PARSER,
    TOOL_PARSERS,
    detect_tool_parser,
    tool_parser_problem,
)
from vgate.frontend.parsing.families.harmony import (
    ENDS_OF_ANSWER,
    MARKS,
    HarmonyParser,
    opening_of,
)
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.json_text import is_json_object, to_json
from vgate.frontend.parsing.reasoning import ReasoningParser, detect_reasoning, initial_state
from vgate.frontend.parsing.tool_parser import ToolParser

__all__ = [
    "ENDS_OF_ANSWER",
    "MARKS",
    "PLAIN_TOOL_PARSER",
    "TOOL_PARSERS",
    "HarmonyParser",
    "NamedCall",
    "OutputParser",
    "Parsed",
    "ReasoningParser",
    "RequiredCalls",
    "ToolParser",
    "detect_reasoning",
    "detect_tool_parser",
    "initial_state",
    "is_json_object",
    "opening_of",
    "to_json",
    "tool_parser_problem",
]
