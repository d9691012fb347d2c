"""Choices with reasoning, tool calls, log probabilities: the same outcome at every cut."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.frontend.answers import ToolCall
from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.parsing import ReasoningParser, RequiredCalls, is_json_object
from vgate.frontend.parsing.families.hermes import HermesToolParser
from vgate.wire.logprobs import Logprobs

END = 256
CALL = '<tool_call>{"name":"f","arguments":{"a":"b"}}</tool_call>'
TOOLS = [{"name": "f", "parameters": {"type": "object"}}]


class Fed:
    """A choice fed by hand, and what it showed."""

    def __init__(self, built_in, *, start="auto", tools=True, logprobs=False, ends=(), **reading):
        if tools is True:
            tools = partial(HermesToolParser, TOOLS)
        self.sequence = Sequence(None, 0)
        self.logprobs = logprobs
        reading = DecodeOptions(
            texts=built_in.token_texts,
            reasoning=partial(ReasoningParser, start, implicit_ends=ends) if start else None,
            tools=tools or None,
            new_call_id=lambda: "id",
            **reading,
        )
        self.choice = Choice(self.sequence, [], reading, logprobs=logprobs)
        self.pieces = []

    def feed(self, ids, finish=None):
        if self.choice.finish_reason is not None:
            return
        self.sequence.pending += ids
        if self.logprobs:
            self.sequence.logprobs += [Logprobs.of((token,), (-float(token),), 1) for token in ids]
        self.sequence.finish_reason = finish
        piece = self.choice.take()
        if piece is not None:
            self.pieces.append(piece)

    def all(self, text, finish="stop", sizes=()):
        ids = [*text.encode(), *([END] if finish == "stop" else [])]
        for size in sizes:
            if size < len(ids):
                self.feed(ids[:size])
                ids = ids[size:]
        self.feed(ids, finish)
        return self

    def outcome(self):
        finished = self.choice.result()
        return finished, self.choice.tokens, self.choice.reasoning_tokens


@pytest.fixture
def fed(built_in):
    return partial(Fed, built_in)


def test_all_of_it(fed):
    finished, tokens, reasoning_tokens = fed().all(f"<think>hm</think>ok{CALL}").outcome()
    assert (finished.reasoning, finished.text) == ("hm", "ok")
    assert finished.tool_calls == [ToolCall("id", "f", '{"a":"b"}')]
    assert finished.finish_reason == "tool_calls"
    assert reasoning_tokens == len("<think>hm</think>")
    assert tokens == len(f"<think>hm</think>ok{CALL}") + 1


@pytest.mark.parametrize("thought", ["", "hm", "é</thi", "<tool_<"])
def test_a_call_that_ends_reasoning_is_none_of_its_tokens(fed, thought):
    text = f"<think>{thought}{CALL}"
    finished, tokens, reasoning_tokens = fed(ends=("<tool_call>",)).all(text).outcome()
    assert (finished.reasoning, len(finished.tool_calls)) == (thought, 1)
    assert reasoning_tokens == len(f"<think>{thought}".encode())
    assert tokens == len(text.encode()) + 1


LIST = '[{"name": "f", "parameters": {"a": "b"}}, {"name": "f", "parameters": {}}]'


@pytest.mark.parametrize("size", range(len(LIST)))
@pytest.mark.parametrize("sizes", [(), (1,) * len(LIST)], ids=["whole", "streamed"])
def test_a_list_of_calls_that_is_cut_off_is_no_content(fed, size, sizes):
    choice = fed(start=None, tools=partial(RequiredCalls, TOOLS), calls_only=True)
    finished, _, _ = choice.all(LIST[:size], "length", sizes).outcome()
    assert (finished.text, finished.finish_reason) == ("", "length")
    assert all(call.name == "f" and call.arguments for call in finished.tool_calls[:-1])
    assert not any(piece.text for piece in choice.pieces)


@pytest.mark.parametrize("size", range(1, len(LIST)))
@pytest.mark.parametrize("end", ["stop string", "stop token"])
def test_a_list_of_calls_that_a_stop_cuts_off_is_no_content(fed, size, end):
    """However the text is cut in two, and wherever the engine is when the stop string is found."""
    stop = LIST[:size]
    reading = (
        {"stops": (stop,), "include_stop": True}
        if end == "stop string"
        else {"reported_stop_ids": frozenset({END})}
    )
    # The engine runs past a stop string.
    text = LIST if end == "stop string" else stop
    outcomes = []
    for cut in range(len(text) + 1):
        choice = fed(start=None, tools=partial(RequiredCalls, TOOLS), calls_only=True, **reading)
        outcomes.append(choice.all(text, sizes=(cut,) if cut else ()).outcome())
        assert not any(piece.text for piece in choice.pieces)
    finished, _, _ = outcomes[0]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert (finished.text, finished.stop_reason) == ("", END if end == "stop token" else stop)
    whole = finished.tool_calls and is_json_object(finished.tool_calls[-1].arguments)
    assert finished.finish_reason == ("tool_calls" if whole else "stop")


@pytest.mark.parametrize("size", range(1, len(CALL)))
def test_a_call_that_a_stop_cuts_off_is_not_finished(fed, size):
    finished, _, _ = fed(stops=(CALL[:size],), include_stop=True).all(CALL).outcome()
    whole = finished.tool_calls and is_json_object(finished.tool_calls[0].arguments)
    assert finished.finish_reason == ("tool_calls" if whole else "stop")


def test_what_is_no_list_of_calls_is_content_at_its_end(fed):
    choice = fed(start=None, tools=partial(RequiredCalls, TOOLS), calls_only=True)
    finished, _, _ = choice.all("[{").outcome()
    assert (finished.text, finished.finish_reason) == ("[{", "stop")


TEXTS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "hm", "é", " ", "\n", "STOP", "ST", CALL, "<tool_call>", "{", "x"]
    ),
    max_size=8,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS,
    finish=st.sampled_from(["stop", "length"]),
    start=st.sampled_from(["auto", "inside", "outside", None]),
    tools=st.booleans(),
    stops=st.sampled_from([(), ("STOP",), ("x", "m")]),
    include_stop=st.booleans(),
    min_tokens=st.integers(0, 12),
    sizes=st.lists(st.integers(1, 12), max_size=20),
)
def test_where_the_steps_cut_changes_nothing(built_in, text, finish, sizes, **reading):
    whole = Fed(built_in, logprobs=True, keep_token_ids=True, **reading).all(text, finish)
    cut = Fed(built_in, logprobs=True, keep_token_ids=True, **reading).all(text, finish, sizes)
    assert cut.outcome() == whole.outcome()
    finished, tokens, _ = cut.outcome()
    assert "".join(piece.text for piece in cut.pieces) == finished.text
    assert "".join(piece.reasoning for piece in cut.pieces) == finished.reasoning
    assert [place for piece in cut.pieces for place in piece.logprobs] == finished.logprobs
    assert [token for piece in cut.pieces for token in piece.token_ids] == finished.token_ids
    assert len(finished.logprobs) == len(finished.token_ids) == tokens
    parts = [part for piece in cut.pieces for part in piece.tool_calls]
    for index, call in enumerate(finished.tool_calls):
        of_call = [part for part in parts if part.index == index]
        assert (of_call[0].id, of_call[0].name) == (call.id, call.name)
        assert "".join(part.arguments for part in of_call) == call.arguments


class TestStops:
    def test_none_in_reasoning(self, fed):
        choice = fed(stops=("STOP",)).all("<think>a STOP b</think>c STOP d")
        finished, _, _ = choice.outcome()
        assert (finished.reasoning, finished.text) == ("a STOP b", "c ")
        assert (finished.finish_reason, finished.stop_reason) == ("stop", "STOP")

    def test_one_that_begins_in_reasoning_is_none(self, fed):
        finished, _, _ = fed(stops=("think>c",)).all("<think>a</think>c d").outcome()
        assert (finished.text, finished.stop_reason) == ("c d", None)

    def test_in_a_tool_call(self, fed):
        finished, _, _ = fed(stops=('"b"',)).all(CALL).outcome()
        assert finished.tool_calls == [ToolCall("id", "f", '{"a":')]
        assert (finished.finish_reason, finished.stop_reason) == ("stop", '"b"')

    def test_it_may_belong_to_the_text(self, fed):
        finished, _, _ = fed(stops=("STOP",), include_stop=True).all("a STOP b").outcome()
        assert finished.text == "a STOP"

    def test_a_stop_token_that_was_asked_for_is_named(self, fed):
        choice = fed(reported_stop_ids=frozenset({END})).all("a")
        assert choice.outcome()[0].stop_reason == END

    def test_the_models_own_end_has_no_name(self, fed):
        assert fed().all("a").outcome()[0].stop_reason is None


class TestEnds:
    def test_a_call_that_was_named_ends_with_stop(self, fed):
        assert fed(calls_are_stops=True).all(CALL).outcome()[0].finish_reason == "stop"

    def test_a_call_that_was_cut_ends_with_length(self, fed):
        finished, _, _ = fed().all(CALL[:40], "length").outcome()
        assert finished.finish_reason == "length"
        assert finished.tool_calls[0].name == "f"

    def test_reasoning_that_was_cut(self, fed):
        finished, tokens, reasoning_tokens = fed().all("<think>so </thi", "length").outcome()
        assert (finished.reasoning, finished.text) == ("so </thi", "")
        assert tokens == reasoning_tokens == len("<think>so </thi")


class TestShown:
    def test_hidden_reasoning_is_nowhere(self, fed):
        choice = fed(hide_reasoning=True).all("<think>hm</think>ok", sizes=[1] * 30)
        assert all(not piece.reasoning for piece in choice.pieces)
        finished, _, reasoning_tokens = choice.outcome()
        assert (finished.reasoning, finished.text) == ("", "ok")
        assert reasoning_tokens > 0

    def test_only_the_prompt(self, fed):
        choice = fed(start=None, tools=False, prompt_only=True).all("x", "length")
        finished, tokens, _ = choice.outcome()
        assert (choice.pieces, finished.text, tokens) == ([], "", 0)
        assert finished.finish_reason == "length"

    def test_a_call_has_one_id(self, fed):
        choice = fed().all(CALL + CALL, sizes=[1] * 200)
        named = [part for piece in choice.pieces for part in piece.tool_calls if part.id]
        assert [(part.index, part.name) for part in named] == [(0, "f"), (1, "f")]
