"""A stream carries the same answer as a response, in events that Anthropic's client accepts."""

import json
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from vgate.errors import DeadlineExceededError
from vgate.frontend.answers import ChoiceDelta, ChoiceResult, Result, TokenCounts, ToolCall
from vgate.frontend.answers.encoder import replay
from vgate.frontend.apis.anthropic.messages.response import MessagesEncoder
from vgate.frontend.tool_calls import ToolCallDelta

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
COUNTS = TokenCounts(prompt=10, completion=7, cached=4, reasoning=2)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


class Case(NamedTuple):
    """Deltas, and the answer that they add up to."""

    pieces: list[ChoiceDelta]
    answer: Result


@st.composite
def cut(draw, text: str) -> list[str]:
    """Split a text into non-empty pieces."""
    places = draw(st.sets(st.integers(1, len(text) - 1))) if len(text) > 1 else []
    edges = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@st.composite
def cases(draw) -> Case:
    """An answer and its deltas: reasoning, text, calls, and text between the calls."""
    reasoning = draw(st.just("") | texts)
    text = draw(st.just("") | texts)
    calls = [
        ToolCall(
            f"call_{n}", draw(texts), json.dumps(draw(st.dictionaries(texts, texts, max_size=2)))
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    afterwards = [draw(st.just("") | texts) for _ in calls]
    moves: list[ChoiceDelta] = []
    moves += [ChoiceDelta("", part) for part in (draw(cut(reasoning)) if reasoning else [])]
    moves += [ChoiceDelta(part) for part in (draw(cut(text)) if text else [])]
    for number, (call, after) in enumerate(zip(calls, afterwards, strict=True)):
        first, *rest = draw(cut(call.arguments))
        head = ToolCallDelta(number, call.id, call.name, draw(st.sampled_from(["", first])))
        parts = [head, *(ToolCallDelta(number, None, None, p) for p in rest)]
        if not head.arguments:
            parts.insert(1, ToolCallDelta(number, None, None, first))
        moves += [ChoiceDelta("", "", (part,)) for part in parts]
        moves += [ChoiceDelta(part) for part in (draw(cut(after)) if after else [])]
    end = draw(st.sampled_from(["stop", "length"])) if not calls else "tool_calls"
    stop = draw(st.none() | texts | st.integers(0, 9)) if end == "stop" else None
    choice = ChoiceResult(text + "".join(afterwards), end, reasoning, calls, stop)
    return Case(draw(joined(moves)), Result([choice], COUNTS))


@st.composite
def joined(draw, moves: list[ChoiceDelta]) -> list[ChoiceDelta]:
    """Merge some of the consecutive deltas."""
    pieces: list[ChoiceDelta] = []
    for move in moves:
        if pieces and draw(st.booleans()) and can_join(pieces[-1], move):
            last = pieces.pop()
            calls = last.tool_calls + move.tool_calls
            pieces.append(
                ChoiceDelta(last.text + move.text, last.reasoning + move.reasoning, calls)
            )
        else:
            pieces.append(move)
    return pieces


def can_join(last: ChoiceDelta, move: ChoiceDelta) -> bool:
    """Whether a delta can hold both: the order inside a delta is fixed.

    Text after the end of a call may be in one piece with that end, and with nothing after it.
    """
    if move.reasoning:
        return not (last.text or last.tool_calls)
    if move.text:
        return not last.tool_calls or last.tool_calls[0].name is None
    return not last.text or not last.tool_calls


def events_of(stream: bytes) -> list[dict[str, Any]]:
    events = []
    for frame in stream.decode().split("\n\n")[:-1]:
        first, second = frame.split("\n")
        data = json.loads(second.removeprefix("data: "))
        assert first == f"event: {data['type']}"
        events.append(data)
    return events


def streamed(pieces: list[ChoiceDelta], answer: Result) -> list[dict[str, Any]]:
    encoder = MessagesEncoder("m", "req-1").stream_encoder()
    encoder.counts = lambda: answer.counts
    (choice,) = answer.choices
    out = [encoder.begin(), encoder.open(0, None)]
    for piece in pieces:
        plain = piece == ChoiceDelta(piece.text)
        out.append(encoder.text(0, piece.text) if plain else encoder.delta(0, piece))
    out += [encoder.finish(0, choice.finish_reason, choice.stop_reason), encoder.end()]
    return events_of(b"".join(out))


def accumulated(events: list[dict[str, Any]]) -> Message:
    """Accumulate a stream as the official client does."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        # This also validates, which the client itself does not.
        parsed = EVENT.validate_python(event, strict=True)
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


def whole(answer: Result) -> dict[str, Any]:
    body = json.loads(MessagesEncoder("m", "req-1").encode(answer))
    Message.model_validate(body, strict=True)
    return body


def normal(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its text joined, as a response has it."""
    blocks = message["content"]
    return {
        **{
            name: message[name]
            for name in ("type", "role", "model", "stop_reason", "stop_sequence")
        },
        "usage": {k: v for k, v in message["usage"].items() if v is not None},
        "text": "".join(b["text"] for b in blocks if b["type"] == "text"),
        "thinking": [(b["thinking"], b["signature"]) for b in blocks if b["type"] == "thinking"],
        "calls": [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"],
    }


@given(case=cases())
def test_a_stream_equals_the_response(case):
    message = accumulated(streamed(*case))
    assert normal(message.model_dump()) == normal(whole(case.answer))


@given(case=cases())
def test_a_replayed_stream_equals_the_response(case):
    events = events_of(replay(MessagesEncoder("m", "req-1").stream_encoder(), case.answer))
    body = whole(case.answer)
    message = accumulated(events).model_dump()
    assert normal(message) == normal(body)
    # It is replayed at once, so even its blocks are the same.
    assert [b["type"] for b in message["content"]] == [b["type"] for b in body["content"]]


@given(case=cases())
def test_the_order_of_events(case):
    events = streamed(*case)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") >= 1
    open_, blocks = None, 0
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert open_ is None
            assert event["index"] == blocks
            open_, blocks = event["index"], blocks + 1
        else:
            assert event["index"] == open_
            if event["type"] == "content_block_stop":
                open_ = None
    assert open_ is None


def test_reasoning_text_and_a_call():
    pieces = [
        ChoiceDelta("", "Hm"),
        ChoiceDelta("A", "."),
        ChoiceDelta("B"),
        ChoiceDelta("C", "", (ToolCallDelta(0, "call_1", "f", '{"q"'),)),
        ChoiceDelta("", "", (ToolCallDelta(0, None, None, ': "x'),)),
        ChoiceDelta(" Done.", "", (ToolCallDelta(0, None, None, '"}'),)),
    ]
    choice = ChoiceResult("ABC Done.", "tool_calls", "Hm.", [ToolCall("call_1", "f", '{"q": "x"}')])
    events = streamed(pieces, Result([choice], COUNTS))
    usage = {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 2},
    }
    message_id = events[0]["message"].pop("id")
    assert message_id.startswith("msg_")

    def start(index, **block):
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index, **what):
        return {"type": "content_block_delta", "index": index, "delta": what}

    def stop(index):
        return {"type": "content_block_stop", "index": index}

    assert events == [
        {
            "type": "message_start",
            "message": {
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    **usage,
                    "output_tokens": 0,
                    "output_tokens_details": {"thinking_tokens": 0},
                },
            },
        },
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Hm"),
        delta(0, type="thinking_delta", thinking="."),
        delta(0, type="signature_delta", signature="unsigned"),
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="A"),
        delta(1, type="text_delta", text="B"),
        delta(1, type="text_delta", text="C"),
        stop(1),
        start(2, type="tool_use", id="call_1", name="f", input={}),
        delta(2, type="input_json_delta", partial_json='{"q"'),
        delta(2, type="input_json_delta", partial_json=': "x'),
        delta(2, type="input_json_delta", partial_json='"}'),
        stop(2),
        start(3, type="text", text=""),
        delta(3, type="text_delta", text=" Done."),
        stop(3),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ChoiceResult("x", "stop"), ("end_turn", None)),
        (ChoiceResult("x", "length"), ("max_tokens", None)),
        (ChoiceResult("x", "stop", stop_reason="END"), ("stop_sequence", "END")),
        (ChoiceResult("x", "stop", stop_reason=7), ("end_turn", None)),
        (
            ChoiceResult("", "tool_calls", tool_calls=[ToolCall("a", "f", "{}")]),
            ("tool_use", None),
        ),
        # A forced call of a named tool has OpenAI's finish reason "stop".
        (ChoiceResult("", "stop", tool_calls=[ToolCall("a", "f", "{}")]), ("tool_use", None)),
        (ChoiceResult("", "length", tool_calls=[ToolCall("a", "f", "{")]), ("max_tokens", None)),
        (
            ChoiceResult("", "tool_calls", tool_calls=[ToolCall("a", "f", "{")], stop_reason="E"),
            ("stop_sequence", "E"),
        ),
    ],
)
def test_stop_reasons(choice, expected):
    answer = Result([choice], COUNTS)
    body = whole(answer)
    assert (body["stop_reason"], body["stop_sequence"]) == expected
    events = events_of(replay(MessagesEncoder("m", "req-1").stream_encoder(), answer))
    (last,) = [e["delta"] for e in events if e["type"] == "message_delta"]
    assert (last["stop_reason"], last["stop_sequence"]) == expected


def test_an_empty_answer_has_an_empty_text_block():
    answer = Result([ChoiceResult("", "stop")], COUNTS)
    assert whole(answer)["content"] == [{"type": "text", "text": ""}]
    message = accumulated(streamed([], answer))
    assert [(block.type, block.text) for block in message.content] == [("text", "")]


def test_a_broken_stream_ends_with_an_error():
    encoder = MessagesEncoder("m", "req-1").stream_encoder()
    encoder.counts = lambda: COUNTS
    stream = encoder.begin() + encoder.open(0, None) + encoder.text(0, "a")
    events = events_of(stream + encoder.error(DeadlineExceededError("too slow")))
    assert events[-1] == {
        "type": "error",
        "error": {"type": "timeout_error", "message": "too slow"},
        "request_id": "req-1",
    }
    assert "message_stop" not in {event["type"] for event in events}
