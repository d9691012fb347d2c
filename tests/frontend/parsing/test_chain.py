"""Reasoning and tool parsers in a chain, and the state that they report."""

import pytest

from tests.frontend.parsing.samples import TOOLS, Chain, Output, parse
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
def test_initial_state_depends_on_the_end_of_the_prompt(prompt, state):
    assert initial_state(prompt) == state


def test_without_parsers_text_is_content():
    assert parse(Chain(None, None), "<think>a</think>" + CALL) == Output("<think>a</think>" + CALL)


def test_reasoning_alone():
    assert parse(Chain(ReasoningParser("inside"), None), "a</think>" + CALL) == Output(CALL, "a")


def test_a_call_inside_reasoning_is_reasoning():
    chain = Chain(ReasoningParser("inside"), HermesToolParser(TOOLS))
    assert parse(chain, CALL) == Output("", CALL)
    assert not chain.called


def test_unclosed_reasoning_has_no_forced_call():
    chain = Chain(ReasoningParser("inside"), NamedCall("f"))
    assert parse(chain, "a") == Output("", "a")
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
