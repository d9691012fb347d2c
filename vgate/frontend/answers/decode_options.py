"""How the tokens of a request's choices are read."""

from collections.abc import Callable

import msgspec

from vgate.frontend.ids import tool_call_id
from vgate.frontend.parsing import HarmonyParser, OutputParser, ReasoningParser
from vgate.frontend.text import TokenTexts


class DecodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of a request's choices are read.

    Attributes:
        include_stop: Whether a stop string is part of the text.
        min_tokens: Tokens after which stop strings are looked for.
        reported_stop_ids: Tokens that are reported as the stop reason when they end a choice.
        reasoning, tools: Make the parsers; None where there is nothing to parse.
        harmony: Makes the parser of answers in gpt-oss's format, in place of these two.
        marks: What stands for the special tokens of that format in the text that it reads.
        calls_only: The text is a list of calls, of which a part that was cut off is no content.
        calls_are_stops: A tool call ends a choice with "stop", as OpenAI does for a tool that the
            client named.
        prompt_only: The client wants its prompt and no tokens; the one that the engine must
            generate is dropped.
    """

    texts: TokenTexts
    skip_special_tokens: bool = True
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    reported_stop_ids: frozenset[int] = frozenset()
    reasoning: Callable[[], ReasoningParser] | None = None
    tools: Callable[[], OutputParser] | None = None
    harmony: Callable[[], HarmonyParser] | None = None
    marks: dict[int, str] = {}
    hide_reasoning: bool = False
    calls_only: bool = False
    calls_are_stops: bool = False
    new_call_id: Callable[[], str] = tool_call_id
    keep_token_ids: bool = False
    prompt_only: bool = False
