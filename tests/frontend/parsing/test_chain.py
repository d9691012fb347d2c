"""Reasoning, then tools; who asks is told where the text is and whether a tool was called."""

from __future__ import annotations

import pytest

from tests.frontend.parsing.samples import TOOLS, Chain, Said, whole
from vgate.frontend.parsing.base import Parsed
from vgate.frontend.parsing.families.hermes import HermesToolParser
from vgate.frontend.parsing.forced import NamedCall
from vgate.frontend.parsing.reasoning import ReasoningParser, initial_state

CALL = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|im_start|>assistant\n<think>\n", "inside"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "outside"),
        ("<|im_start|>assistant\n", "auto"),
        ("", "auto"),
        ("<think>a</think>b<|im_end|>\n<|im_start|>assistant\n", "auto"),
    ],
)
def test_the_end_of_the_prompt_tells_where_the_answer_begins(prompt, state):
    assert initial_state(prompt) == state


def test_marks_can_be_others():
    assert initial_state("a [THINK]", "[THINK]", "[/THINK]") == "inside"
    parser = ReasoningParser("auto", "[THINK]", "[/THINK]")
    assert whole(parser, "[THINK]a</think>[/THINK]b") == Said("b", "a</think>")


def test_nothing_to_do_passes_text_on():
    assert whole(Chain(None, None), "<think>a</think>" + CALL) == Said("<think>a</think>" + CALL)


def test_reasoning_alone():
    assert whole(Chain(ReasoningParser("inside"), None), "a</think>" + CALL) == Said(CALL, "a")


def test_a_call_within_reasoning_is_none():
    chain = Chain(ReasoningParser("inside"), HermesToolParser(TOOLS))
    assert whole(chain, CALL) == Said("", CALL)
    assert not chain.called


def test_reasoning_that_never_ends_forces_no_call():
    chain = Chain(ReasoningParser("inside"), NamedCall("f"))
    assert whole(chain, "a") == Said("", "a")
    assert not chain.called


def test_in_reasoning_follows_the_text():
    chain = Chain(ReasoningParser("auto"), HermesToolParser(TOOLS))
    assert not chain.in_reasoning
    chain.feed("<think>")
    assert chain.in_reasoning
    assert chain.feed("a</thin") == Parsed(reasoning="a")
    assert chain.in_reasoning
    assert chain.feed("k>b") == Parsed(content="b")
    assert not chain.in_reasoning


def test_in_reasoning_from_the_start_if_the_prompt_began_it():
    assert Chain(ReasoningParser("inside"), None).in_reasoning
    assert not Chain(ReasoningParser("outside"), None).in_reasoning
    assert not Chain(None, None).in_reasoning


def test_called_once_a_call_begins():
    chain = Chain(None, HermesToolParser(TOOLS))
    chain.feed("a <tool_call>")
    assert not chain.called
    chain.feed('{"name": "get_time", "arguments": {')
    assert chain.called
