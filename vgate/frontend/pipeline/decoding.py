"""How the tokens of an answer are read: stop strings, and the parsers of reasoning and tools."""

from collections.abc import Callable
from functools import partial

from vgate.errors import UnsupportedParameterError
from vgate.frontend.answers.decode_options import DecodeOptions
from vgate.frontend.ids import tool_call_id
from vgate.frontend.parsing import (
    PLAIN_TOOL_PARSER,
    TOOL_PARSERS,
    HarmonyParser,
    NamedCall,
    OutputParser,
    ReasoningParser,
    RequiredCalls,
    ToolParser,
    initial_state,
    opening_of,
)
from vgate.frontend.pipeline.generation import Generation, Prompts
from vgate.frontend.pipeline.render import describes_tools, template_of
from vgate.frontend.text import TextModel


def decode_options(generation: Generation, text: TextModel, rendered: str | None) -> DecodeOptions:
    """Return how the answer's tokens are read.

    `rendered` is the conversation as text; None without one, and so without reasoning.

    Raises:
        UnsupportedParameterError: The format of the model's tool calls is unknown.
    """
    tools, sampling = generation.tools, generation.sampling
    chosen = _tool_parser(generation, text)
    own_calls = writes_harmony_calls(generation, text)
    # The parser of gpt-oss's format reads its calls too.
    mode = "none" if own_calls else tools.mode
    skip_special_tokens = generation.skip_special_tokens
    if mode == "auto" and chosen is None:
        raise _unknown_format(generation.model)
    harmony = _harmony(generation, text, rendered, own_calls=own_calls)
    parser: Callable[[], OutputParser] | None = None
    markers: tuple[str, ...] = ()
    if mode == "named":
        parser = partial(NamedCall, tools.name or "")
    elif mode == "required":
        parser = partial(RequiredCalls, tools.functions, first_call_only=not tools.parallel)
    elif mode == "auto" and chosen is not None:
        parser = partial(chosen, tools.functions, first_call_only=not tools.parallel)
        skip_special_tokens = skip_special_tokens and not chosen.needs_special_tokens
        markers = chosen.markers
    reasoning = None
    if rendered is not None and text.reasons and harmony is None:
        # A model may call a tool without closing its reasoning, but not where the text has a
        # constraint: that begins with the end of the reasoning.
        ends = markers if generation.constraint is None else ()
        reasoning = partial(ReasoningParser, initial_state(rendered), implicit_ends=ends)
    return DecodeOptions(
        texts=text.token_texts,
        skip_special_tokens=skip_special_tokens,
        stops=generation.stops,
        include_stop=generation.include_stop,
        min_tokens=sampling.min_tokens or 0,
        reported_stop_ids=reported_stop_ids(generation, text),
        reasoning=reasoning,
        tools=parser,
        harmony=harmony,
        marks={} if harmony is None else text.marks,
        hide_reasoning=not generation.show_reasoning,
        calls_only=mode == "required",
        calls_are_stops=tools.mode == "named",
        new_call_id=tool_call_id if chosen is None else chosen.new_call_id,
        keep_token_ids=generation.keep_token_ids,
        prompt_only=isinstance(generation.prompt, Prompts) and generation.prompt.only,
    )


def writes_harmony_calls(generation: Generation, text: TextModel) -> bool:
    """Whether the calls of an answer are in gpt-oss's format."""
    return bool(text.marks) and _tool_parser(generation, text) is HarmonyParser


def _harmony(
    generation: Generation, text: TextModel, rendered: str | None, *, own_calls: bool
) -> Callable[[], HarmonyParser] | None:
    """Return what makes the parser of gpt-oss's format; None if the answer has another one.

    With `own_calls`, calls are in that format too.
    """
    if rendered is None or not text.marks:
        return None
    tools = generation.tools
    return partial(
        HarmonyParser,
        tools.functions if own_calls else [],
        first_call_only=not tools.parallel,
        opening=opening_of(rendered),
        reasons=text.reasons,
    )


def reported_stop_ids(generation: Generation, text: TextModel) -> frozenset[int]:
    """Return the tokens that are reported as the stop reason when they end an answer.

    As in vLLM: every token that can end it except the tokenizer's own, which is the usual end.
    """
    asked = frozenset(generation.sampling.stop_token_ids or ())
    if generation.sampling.ignore_eos:
        return asked
    return (asked | text.other_eos_ids) - {text.eos_id}


def _tool_parser(generation: Generation, text: TextModel) -> type[ToolParser] | None:
    """Return the parser of the format in which the model is told, or trained, to write calls."""
    if text.tool_parser is None:
        return None
    name, tools = text.tool_parser, generation.tools
    if tools.tools and (template := template_of(generation, text)) is not None:
        name = PLAIN_TOOL_PARSER if describes_tools(tools, template, text) else name
    return TOOL_PARSERS[name]


def _unknown_format(model: str) -> UnsupportedParameterError:
    message = (
        f"it is not known how `{model}` writes tool calls; set model.tool_parser, or "
        'use `tool_choice` "required"'
    )
    return UnsupportedParameterError(message, param="tools")
