"""Streams of the Responses API: the order of events, and that they match the response's body."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import responses as types

from tests.frontend.apis.openai.responses_events import (
    EVENTS,
    EXTRA,
    check_stream,
    events_of,
    extras_of,
    without_ids,
)
from tests.frontend.gateway import post
from vgate.errors import EngineUnavailableError, RateLimitedError
from vgate.frontend.answers import ChoiceDelta, ChoiceResult, Result, TokenCounts, ToolCall
from vgate.frontend.answers.encoder import replay
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.apis.openai.responses.request import decode_responses
from vgate.frontend.apis.openai.responses.response import (
    ResponseObject,
    encoded_once,
    response_to,
)
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder, ResponsesStream
from vgate.frontend.http import Ignored
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.logprobs import Logprobs
from vgate.wire.parameters import DEFAULTS

END_TOKEN = 256
KINDS = ["reasoning", "message", "function_call"]


def response(**fields: Any) -> ResponseObject:
    body = json.dumps({"model": "m", "input": "Hi", **fields}).encode()
    return response_to(decode_responses(body, Ignored()), "m", DEFAULTS, 7)


def encoder_of(logprobs: LogprobTexts | None = None, **fields: Any) -> ResponsesEncoder:
    return ResponsesEncoder(response(**fields), lambda: 8.5, logprobs)


# ---- any answer, cut in any way


def places(text: str) -> list[Logprobs]:
    """Return log probabilities of a text in the vocabulary of single bytes."""
    return [
        Logprobs.of((byte, byte, 0, 255), (-byte / 7, -byte / 7, -2.0, float("-inf")), 1)
        for byte in text.encode()
    ]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
calls = st.builds(
    ToolCall,
    st.text("abc123", min_size=1, max_size=4).map("call_{}".format),
    st.sampled_from(["f", "get_weather"]),
    texts,
)


class Atom(msgspec.Struct, frozen=True):
    """A part of an answer that is not cut further; `hidden` tokens show nothing."""

    kind: str
    text: str
    index: int = -1
    call: ToolCall | None = None
    hidden: str = ""


@st.composite
def streamed_answers(draw) -> tuple[Result, list[tuple[ChoiceDelta, int]], bool]:
    """Draw an answer, its deltas with the reasoning tokens so far, and if it has logprobs."""

    def cut(kind: str, text: str, index: int = -1) -> list[Atom]:
        ends = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)) | {0, len(text)})
        return [Atom(kind, text[a:b], index) for a, b in pairwise(ends)]

    reasoning = draw(st.just("") | texts)
    text = draw(st.just("") | texts)
    called = draw(st.lists(calls, max_size=3))
    with_logprobs = draw(st.booleans())
    atoms = []
    if reasoning:
        atoms += [*cut("reasoning", reasoning), Atom("reasoning", "", hidden="/")]
    atoms += cut("text", text)
    for index, call in enumerate(called):
        atoms += [Atom("call", "", index, call, hidden="<")]
        atoms += cut("call", call.arguments, index)
    deltas = draw_deltas(draw, atoms, with_logprobs=with_logprobs)
    tokens = [place for delta, _ in deltas for place in delta.logprobs or ()]
    if with_logprobs:
        end = [Logprobs.of((END_TOKEN,), (-0.5,), 1)]
        tokens += end
        deltas.append((ChoiceDelta("", logprobs=end), deltas[-1][1] if deltas else 0))
    reasoning_tokens = len(reasoning.encode()) + bool(reasoning)
    choice = ChoiceResult(
        text,
        draw(st.sampled_from(["stop", "length", "tool_calls"])),
        reasoning,
        called,
        logprobs=tokens if with_logprobs else None,
    )
    counts = TokenCounts(7, 100, 3, reasoning_tokens)
    return Result([choice], counts), deltas, with_logprobs


def draw_deltas(draw, atoms: list[Atom], *, with_logprobs: bool) -> list[tuple[ChoiceDelta, int]]:
    """Put atoms together to deltas; what a delta shows may come later than its tokens."""
    order = {"reasoning": 0, "text": 1, "call": 2}
    groups: list[list[Atom]] = []
    for atom in atoms:
        fits = groups and order[groups[-1][-1].kind] <= order[atom.kind]
        if fits and draw(st.booleans()):
            groups[-1].append(atom)
        else:
            groups.append([atom])
    deltas: list[tuple[ChoiceDelta, int]] = []
    reasoning_tokens = 0
    for group in groups:
        tokens = [place for atom in group for place in places(atom.text + atom.hidden)]
        if with_logprobs and draw(st.booleans()):
            deltas.append((ChoiceDelta("", logprobs=tokens), reasoning_tokens))
            tokens = []
        parts_of = {
            kind: "".join(a.text for a in group if a.kind == kind) for kind in ("reasoning", "text")
        }
        reasoning_tokens += sum(
            len((a.text + a.hidden).encode()) for a in group if a.kind == "reasoning"
        )
        parts = tuple(
            ToolCallDelta(
                a.index, a.call.id if a.call else None, a.call.name if a.call else None, a.text
            )
            for a in group
            if a.kind == "call"
        )
        logprobs = tokens if with_logprobs else None
        delta = ChoiceDelta(parts_of["text"], parts_of["reasoning"], parts, logprobs)
        if any(delta):
            deltas.append((delta, reasoning_tokens))
    return deltas


def stream_of(
    encoder: ResponsesEncoder, answer: Result, deltas: list[tuple[ChoiceDelta, int]]
) -> bytes:
    """Stream an answer that comes in these deltas."""
    (choice,) = answer.choices
    events = encoder.stream_encoder()
    reasoning_tokens = 0
    events.counts = lambda: msgspec.structs.replace(answer.counts, reasoning=reasoning_tokens)
    out = [events.begin(), events.open(0, None)]
    for delta, reasoning_tokens in deltas:  # noqa: B007 - the counts see it
        plain = not any(delta[1:])
        out.append(events.text(0, delta.text) if plain else events.delta(0, delta))
    reasoning_tokens = answer.counts.reasoning
    out += [events.finish(0, choice.finish_reason, choice.stop_reason), events.end()]
    return b"".join(out)


@pytest.fixture(scope="module")
def logprob_texts(built_in) -> LogprobTexts:
    return LogprobTexts(built_in.token_texts, top=2)


@given(streamed_answers())
@settings(max_examples=300, deadline=None)
def test_a_stream_ends_with_the_non_streaming_response(logprob_texts, drawn):
    answer, deltas, with_logprobs = drawn
    encoder = encoder_of(
        logprob_texts if with_logprobs else None,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    body = json.loads(encoder.encode(answer))
    types.Response.model_validate(body, strict=True)
    final = check_stream(stream_of(encoder, answer, deltas))
    assert without_ids(final) == without_ids(body)
    replayed = check_stream(replay(encoder.stream_encoder(), answer))
    assert without_ids(replayed) == without_ids(body)
    check_items(body["output"], answer.choices[0], with_logprobs=with_logprobs)


def check_items(output: list[dict[str, Any]], choice: ChoiceResult, *, with_logprobs: bool) -> None:
    """Check the items of a complete answer."""
    by_kind = {kind: [item for item in output if item["type"] == kind] for kind in KINDS}
    assert [item["type"] for item in output] == sorted((i["type"] for i in output), key=KINDS.index)
    thought = [item["content"][0]["text"] for item in by_kind["reasoning"]]
    assert thought == ([choice.reasoning] if choice.reasoning else [])
    messages = [item["content"][0] for item in by_kind["message"]]
    needed = bool(choice.text) or not (choice.reasoning or choice.tool_calls)
    assert [part["text"] for part in messages] == ([choice.text] if needed else [])
    called = [
        ToolCall(item["call_id"], item["name"], item["arguments"])
        for item in by_kind["function_call"]
    ]
    assert called == choice.tool_calls
    last = "incomplete" if choice.finish_reason == "length" else "completed"
    assert [item["status"] for item in output] == ["completed"] * (len(output) - 1) + [last]
    for part in messages:
        # The vocabulary is single bytes, so the text's tokens are its bytes; then there is the end.
        expected = [[byte] for byte in choice.text.encode()] if with_logprobs else []
        if with_logprobs and not choice.tool_calls:
            expected.append(list(b"<|end|>"))
        assert [token["bytes"] for token in part["logprobs"]] == expected
        assert all(
            len(token["top_logprobs"]) == 2
            for token in part["logprobs"]
            if len(token["bytes"]) == 1
        )


# ---- certain answers


def stream_encoder(**fields: Any) -> ResponsesStream:
    events = encoder_of(**fields).stream_encoder()
    events.counts = lambda: TokenCounts(7, 5, 3, 2)
    return events


def kinds(stream: bytes) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events_of(stream)]


class TestEvents:
    def test_reasoning_text_and_calls(self):
        events = stream_encoder()
        stream = b"".join(
            [
                events.begin(),
                events.open(0, None),
                events.delta(0, ChoiceDelta("", "Hm")),
                events.delta(0, ChoiceDelta("Ho", ".")),
                events.text(0, "ho"),
                events.delta(0, ChoiceDelta("", "", (ToolCallDelta(0, "c0", "f", ""),))),
                events.delta(0, ChoiceDelta("", "", (ToolCallDelta(0, None, None, "{}"),))),
                events.delta(0, ChoiceDelta("", "", (ToolCallDelta(1, "c1", "g", "{"),))),
                events.delta(0, ChoiceDelta("", "", (ToolCallDelta(1, None, None, "}"),))),
                events.finish(0, "tool_calls", None),
                events.end(),
            ]
        )
        assert kinds(stream) == [
            "created", "in_progress",
            "output_item.added", "content_part.added",
            "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done",
            "content_part.done", "output_item.done",
            "output_item.added", "content_part.added",
            "output_text.delta", "output_text.delta", "output_text.done",
            "content_part.done", "output_item.done",
            "output_item.added",
            "function_call_arguments.delta", "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta", "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]  # fmt: skip
        final = check_stream(stream)
        assert (final["created_at"], final["completed_at"]) == (7, 8)
        assert final["usage"] == {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 12,
        }
        reasoning, message, first, second = final["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
        assert (reasoning["summary"], reasoning["encrypted_content"]) == ([], None)
        assert message["content"][0]["text"] == "Hoho"
        assert (first["call_id"], first["name"], first["arguments"]) == ("c0", "f", "{}")
        assert (second["call_id"], second["name"], second["arguments"]) == ("c1", "g", "{}")
        prefixes = [item["id"].split("_")[0] for item in final["output"]]
        assert prefixes == ["rs", "msg", "fc", "fc"]
        assert final["id"].startswith("resp_")

    def test_a_cut_answer_is_incomplete(self):
        events = stream_encoder()
        deltas = events.begin() + events.delta(0, ChoiceDelta("Ho", "Hm"))
        final = check_stream(deltas + events.finish(0, "length", None) + events.end())
        assert final["status"] == "incomplete"
        assert final["incomplete_details"] == {"reason": "max_output_tokens"}
        assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]
        assert final["completed_at"] is None

    def test_an_empty_answer_is_an_empty_message(self):
        events = stream_encoder()
        stream = events.begin() + events.finish(0, "stop", None) + events.end()
        assert kinds(stream)[2:-1] == [
            "output_item.added", "content_part.added",
            "output_text.done", "content_part.done", "output_item.done",
        ]  # fmt: skip
        (message,) = check_stream(stream)["output"]
        assert message["content"][0]["text"] == ""

    def test_reasoning_alone_needs_no_message(self):
        events = stream_encoder()
        stream = (
            events.begin()
            + events.delta(0, ChoiceDelta("", "Hm"))
            + events.finish(0, "length", None)
        )
        (item,) = check_stream(stream + events.end())["output"]
        assert (item["type"], item["status"]) == ("reasoning", "incomplete")

    def test_text_after_a_call_is_another_message(self):
        events = stream_encoder()
        part = ToolCallDelta(0, "c", "f", "{}")
        stream = (
            events.begin() + events.delta(0, ChoiceDelta("a", "", (part,))) + events.text(0, "b")
        )
        final = check_stream(stream + events.finish(0, "tool_calls", None) + events.end())
        assert [item["type"] for item in final["output"]] == ["message", "function_call", "message"]
        assert types.Response.model_validate(final).output_text == "ab"

    def test_log_probabilities_of_two_messages(self, logprob_texts):
        encoder = encoder_of(logprob_texts)
        events = encoder.stream_encoder()
        events.counts = lambda: TokenCounts(7, 3)
        part = ToolCallDelta(0, "c", "f", "{}")
        stream = events.begin() + events.delta(0, ChoiceDelta("a", "", (part,), places("a")))
        stream += events.delta(0, ChoiceDelta("b", "", (), places("b"))) + events.finish(
            0, "stop", None
        )
        first, _, second = check_stream(stream + events.end())["output"]
        assert [token["token"] for token in first["content"][0]["logprobs"]] == ["a"]
        assert [token["token"] for token in second["content"][0]["logprobs"]] == ["b"]

    def test_text_within_calls_waits_for_their_ends(self):
        events = stream_encoder()
        stream = events.begin()
        for text, index, name, arguments in (
            ("", 0, "f", '{"a"'),
            ("x", 0, None, ": 1"),
            ("y", 0, None, "}"),
            ("", 1, "g", "{"),
            ("z", 1, None, "}"),
        ):
            part = ToolCallDelta(index, name and "c", name, arguments)
            stream += events.delta(0, ChoiceDelta(text, "", (part,)))
        final = check_stream(stream + events.finish(0, "length", None) + events.end())
        assert [
            (item.get("arguments") or item["content"][0]["text"], item["status"])
            for item in final["output"]
        ] == [
            ('{"a": 1}', "completed"),
            ("xy", "completed"),
            ("{}", "completed"),
            ("z", "incomplete"),
        ]

    def test_text_within_a_call_is_in_a_broken_stream(self):
        events = stream_encoder()
        part = ToolCallDelta(0, "c", "f", "{")
        stream = (
            events.begin()
            + events.delta(0, ChoiceDelta("", "", (part,)))
            + events.delta(0, ChoiceDelta("x"))
        )
        *_, failed = events_of(stream + events.error(EngineUnavailableError("it died")))
        statuses = [(item["type"], item["status"]) for item in failed["response"]["output"]]
        assert statuses == [("function_call", "completed"), ("message", "incomplete")]

    def test_beside_calls_only_the_texts_own_tokens_are_told(self, logprob_texts):
        encoder = encoder_of(logprob_texts)
        events = encoder.stream_encoder()
        events.counts = lambda: TokenCounts(7, 3)
        part = ToolCallDelta(0, "c", "f", "{}")
        stream = events.begin() + events.delta(0, ChoiceDelta("", "", (part,)))
        stream += events.delta(0, ChoiceDelta("b", "", (), places("b!")))
        *_, message = check_stream(stream + events.finish(0, "stop", None) + events.end())["output"]
        assert [token["token"] for token in message["content"][0]["logprobs"]] == ["b"]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (EngineUnavailableError("it died"), "server_error"),
            (RateLimitedError("too much"), "rate_limit_exceeded"),
        ],
    )
    def test_a_broken_stream_ends_in_failure(self, error, code):
        events = stream_encoder()
        stream = events.begin() + events.delta(0, ChoiceDelta("Ho", "Hm")) + events.error(error)
        told, failed = events_of(stream)[-2:]
        assert told["type"] == "error"
        assert (told["code"], told["message"]) == (error.code, error.message)
        assert failed["type"] == "response.failed"
        shown = failed["response"]
        assert shown["status"] == "failed"
        assert (shown["error"]["code"], shown["error"]["message"]) == (code, error.message)
        statuses = [(item["type"], item["status"]) for item in shown["output"]]
        assert statuses == [("reasoning", "completed"), ("message", "incomplete")]
        assert "[DONE]" not in stream.decode()

    def test_an_error_before_the_first_item(self):
        events = stream_encoder()
        *_, failed = events_of(events.begin() + events.error(EngineUnavailableError("it died")))
        assert failed["response"]["output"] == []

    @given(texts)
    def test_text_frames_are_json(self, text):
        events = stream_encoder()
        stream = events.begin() + events.text(0, text) + events.text(0, text)
        assert [e["delta"] for e in events_of(stream) if "delta" in e] == [text, text]


def test_the_types_of_every_event_are_known():
    assert {"response.created", "response.reasoning_text.delta", "error"} <= set(EVENTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
         "tool_choice": {"type": "function", "name": "f"}},
        {"tools": [{"type": "function", "name": "f", "strict": True, "description": "d"}],
         "tool_choice": {"type": "allowed_tools", "mode": "auto",
                         "tools": [{"type": "function", "name": "f"}]}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
        {"text": {"format": {"type": "json_object"}}, "reasoning": {"effort": "low"}},
        {"metadata": {"a": "b"}, "user": "u", "instructions": "Be.", "max_output_tokens": 5},
    ],
)  # fmt: skip
def test_what_a_response_repeats_is_of_openais_types(fields):
    encoder = encoder_of(**fields)
    answer = Result([ChoiceResult("Ho", "stop")], TokenCounts(1, 2))
    read = types.Response.model_validate(json.loads(encoder.encode(answer)), strict=True)
    assert extras_of(read) <= EXTRA
    assert read.output_text == "Ho"


# ---- long requests

TOOL = {
    "type": "function",
    "name": "f",
    "description": 'a"\n' * 50_000,
    "parameters": {"é": [None]},
}
FORMAT = {"type": "json_schema", "name": "s"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "a\n" * 60_000, "metadata": {"a": "b"}, "user": "u"},
        {"tools": [TOOL, {"type": "custom", "name": "c"}], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
        {"text": {"format": FORMAT | {"schema": {"const": [1.5, "é"]}}}},
    ],
)
def test_a_response_repeats_the_same_if_that_is_encoded_once(fields):
    plain = response(**fields)
    once = encoded_once(plain)
    assert isinstance(once.tools, msgspec.Raw)
    assert json.loads(msgspec.json.encode(once)) == json.loads(msgspec.json.encode(plain))


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_response_repeats_is_bounded(serve, stream):
    async def scenario(gateway):
        for description, status in ((TOOL["description"], 200), ("a" * 2_100_000, 400)):
            fields = {"input": "a", "max_output_tokens": 1, "tool_choice": "none", "stream": stream}
            tools = [TOOL | {"description": description}]
            answer = await post(gateway, "/v1/responses", fields | {"tools": tools})
            assert answer.status == status
        assert answer.error["param"] == "tools"

    serve(scenario)
