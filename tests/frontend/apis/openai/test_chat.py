"""Chunks put together from encoded parts are the same JSON as encoded objects."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.errors import EngineUnavailableError
from vgate.frontend.answers import ChoiceDelta, ChoiceResult, Result, TokenCounts, ToolCall
from vgate.frontend.answers.encoder import replay
from vgate.frontend.apis.openai.chat.response import ChatEncoder
from vgate.frontend.apis.openai.chunks import DONE, Usage
from vgate.frontend.apis.openai.common import StreamOptions
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.logprobs import Logprobs

texts = st.text(st.characters(exclude_categories=["Cs"]))


USAGE = StreamOptions(include_usage=True)


def encoder(**fields):
    return ChatEncoder(**{"id": "chatcmpl-1", "created": 7, "model": "m"} | fields)


def data_of(frame: bytes):
    """Read one server-sent event."""
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    line = frame[6:-2]
    assert b"\n" not in line
    assert b"\r" not in line
    return json.loads(line)


def expected(choices, *, with_usage, usage=None, name="m"):
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": name,
        "system_fingerprint": None,
        "choices": choices,
    }
    return {**chunk, "usage": usage} if with_usage else chunk


@pytest.mark.parametrize("with_usage", [True, False])
class TestFrames:
    def frames(self, with_usage, name="m"):
        return encoder(model=name, stream_options=USAGE if with_usage else None).stream_encoder()

    @pytest.mark.parametrize("index", [0, 15])
    def test_the_first(self, with_usage, index):
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        frame = self.frames(with_usage).open(index, None)
        assert data_of(frame) == expected([choice], with_usage=with_usage)

    @given(text=texts)
    def test_content(self, with_usage, text):
        frames = self.frames(with_usage)
        choice = {
            "index": 3,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": None,
        }
        frames.open(3, None)
        frame = frames.text(3, text)
        assert data_of(frame) == expected([choice], with_usage=with_usage)

    @pytest.mark.parametrize("reason", ["stop", "length"])
    def test_the_last(self, with_usage, reason):
        choice = {"index": 2, "delta": {}, "logprobs": None, "finish_reason": reason}
        choice["stop_reason"] = None
        frame = self.frames(with_usage).finish(2, reason, None)
        assert data_of(frame) == expected([choice], with_usage=with_usage)

    @given(name=texts)
    def test_any_model_name(self, with_usage, name):
        frame = self.frames(with_usage, name).finish(0, "stop", None)
        assert data_of(frame)["model"] == name

    @pytest.mark.parametrize("name", ["100%s %d%%", '"', "\\", "\n", "</script>", "\u2028"])
    def test_names_that_look_like_format(self, with_usage, name):
        for frame in (self.frames(with_usage, name).open(0, None),):
            assert data_of(frame)["model"] == name


def chunks_of(data: bytes):
    """Read a stream that ends well."""
    *frames, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [data_of(frame + b"\n\n") for frame in frames]


class TestUsage:
    def test_it_has_a_chunk_without_choices(self):
        frames = encoder(stream_options=USAGE).stream_encoder()
        frames.counts = lambda: TokenCounts(10, 5, 3, 2)
        (chunk,) = chunks_of(frames.end())
        assert chunk == expected(
            [], with_usage=True, usage=msgspec.to_builtins(Usage.of(TokenCounts(10, 5, 3, 2)))
        )

    def test_it_adds_up(self):
        usage = Usage.of(TokenCounts(10, 5, 3, 2))
        assert usage.total_tokens == 15
        assert usage.prompt_tokens_details == {"cached_tokens": 3}
        assert usage.completion_tokens_details == {"reasoning_tokens": 2}

    def test_in_every_chunk_it_is_what_has_come_so_far(self):
        usage = StreamOptions(include_usage=True, continuous_usage_stats=True)
        frames = encoder(stream_options=usage).stream_encoder()
        counts = iter(range(5, 10))
        frames.counts = lambda: TokenCounts(10, next(counts))
        data = frames.open(0, None) + frames.text(0, "a") + frames.finish(0, "stop", None)
        seen = [chunk["usage"]["completion_tokens"] for chunk in chunks_of(data + frames.end())]
        assert seen == [0, 6, 7, 8]

    @pytest.mark.parametrize(
        ("options", "continuous", "at_the_end"),
        [
            (StreamOptions(include_usage=True, continuous_usage_stats=True), True, True),
            (StreamOptions(include_usage=True), False, True),
            (StreamOptions(continuous_usage_stats=True), False, False),
            (StreamOptions(), False, False),
            (None, False, False),
        ],
    )
    def test_it_is_in_the_chunks_that_were_asked_for(self, options, continuous, at_the_end):
        frames = encoder(stream_options=options).stream_encoder()
        frames.counts = lambda: TokenCounts(1, 2)
        assert bool(data_of(frames.finish(0, "stop", None)).get("usage")) == continuous
        assert bool(chunks_of(frames.end())) == at_the_end


def test_done_is_openai_s():
    assert DONE == b"data: [DONE]\n\n"


def test_an_error_is_an_event():
    frames = encoder().stream_encoder()
    error = data_of(frames.error(EngineUnavailableError("line\nbreak")))["error"]
    assert (error["message"], error["code"]) == ("line\nbreak", "engine_unavailable")


def encoded(choice, **fields):
    return json.loads(encoder(**fields).encode(Result([choice], TokenCounts(1, 2))))


def test_a_non_streaming_response_has_openai_s_fields():
    completion = encoded(ChoiceResult("x", "stop"))
    assert completion.pop("id").startswith("chatcmpl-")
    assert completion.pop("created") > 0
    assert completion == {
        "object": "chat.completion",
        "model": "m",
        "service_tier": None,
        "system_fingerprint": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "x",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "finish_reason": "stop",
                "stop_reason": None,
                "logprobs": None,
                "token_ids": None,
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


class TestMessages:
    def test_a_call_alone_says_nothing(self):
        choice = ChoiceResult("", "tool_calls", tool_calls=[ToolCall("c1", "f", '{"a":1}')])
        message = encoded(choice)["choices"][0]["message"]
        assert message["content"] is None
        assert message["tool_calls"] == [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        ]

    def test_reasoning_has_both_names(self):
        message = encoded(ChoiceResult("x", "stop", reasoning="hm"), reasons=True)["choices"][0][
            "message"
        ]
        assert message["reasoning_content"] == message["reasoning"] == "hm"

    def test_an_echo_precedes_the_answer(self):
        completion = encoded(ChoiceResult("more", "stop"), prefix="once ")
        assert completion["choices"][0]["message"]["content"] == "once more"


class TestCustomCalls:
    ARGUMENTS = ('{"input": "a', '\\nb"}')
    WHOLE = ToolCall("c1", "patch", "".join(ARGUMENTS))

    def chunks(self, *deltas):
        stream = encoder(custom=frozenset({"patch"})).stream_encoder()
        made = b"".join(stream.delta(0, delta) for delta in deltas)
        made += stream.finish(0, "tool_calls", None)
        frames = (frame + b"\n\n" for frame in made.split(b"\n\n")[:-1])
        choices = [data_of(frame)["choices"][0] for frame in frames]
        assert [choice["finish_reason"] for choice in choices][-1] == "tool_calls"
        return [part for choice in choices for part in choice["delta"].get("tool_calls", [])]

    def test_a_whole_call(self):
        other = ToolCall("c2", "f", "{}")
        calls = ChoiceResult("", "tool_calls", tool_calls=[self.WHOLE, other])
        message = encoded(calls, custom=frozenset({"patch"}))["choices"][0]["message"]
        assert message["tool_calls"] == [
            {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "a\nb"}},
            {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]

    def test_the_input_of_a_streamed_call_is_one_part(self):
        first, second = self.ARGUMENTS
        parts = self.chunks(
            ChoiceDelta("", tool_calls=(ToolCallDelta(0, "c1", "patch", ""),)),
            ChoiceDelta("", tool_calls=(ToolCallDelta(0, None, None, first),)),
            ChoiceDelta("", tool_calls=(ToolCallDelta(0, None, None, second),)),
        )
        assert parts == [
            {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": ""}},
            {"index": 0, "custom": {"input": "a\nb"}},
        ]

    def test_calls_after_it(self):
        parts = self.chunks(
            ChoiceDelta("", tool_calls=(ToolCallDelta(0, "c1", "patch", self.WHOLE.arguments),)),
            ChoiceDelta("", tool_calls=(ToolCallDelta(1, "c2", "f", "{}"),)),
            ChoiceDelta("", tool_calls=(ToolCallDelta(2, "c3", "patch", "not JSON"),)),
        )
        assert [part["index"] for part in parts] == [0, 0, 1, 2, 2]
        assert parts[1]["custom"] == {"input": "a\nb"}
        assert parts[2]["function"] == {"name": "f", "arguments": "{}"}
        assert parts[4]["custom"] == {"input": "not JSON"}


class TestPieces:
    def delta(self, delta, **fields):
        frames = encoder(**fields).stream_encoder()
        return data_of(frames.delta(0, delta))["choices"][0]

    def test_parts_of_a_call(self):
        first = ToolCallDelta(0, "c1", "f", "")
        more = ToolCallDelta(0, None, None, '{"a"')
        assert self.delta(ChoiceDelta("", tool_calls=(first, more)))["delta"] == {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                },
                {"index": 0, "function": {"arguments": '{"a"'}},
            ]
        }

    def test_reasoning(self):
        delta = self.delta(ChoiceDelta("", reasoning="hm"))["delta"]
        assert delta == {"reasoning_content": "hm", "reasoning": "hm"}

    def test_log_probabilities(self, built_in):
        texts = LogprobTexts(built_in.token_texts, top=1)
        position = Logprobs.of((ord("a"), ord("b"), ord("a")), (-1.0, -0.5, -1.0), 2)
        choice = self.delta(ChoiceDelta("a", logprobs=[position]), logprobs=texts)
        assert choice["logprobs"]["content"] == [
            {
                "token": "a",
                "logprob": -1.0,
                "bytes": [97],
                "top_logprobs": [{"token": "b", "logprob": -0.5, "bytes": [98]}],
            }
        ]

    def test_minus_infinity_is_a_number(self, built_in):
        texts = LogprobTexts(built_in.token_texts, top=0)
        position = Logprobs.of((ord("a"),), (float("-inf"),), 9)
        choice = self.delta(ChoiceDelta("a", logprobs=[position]), logprobs=texts)
        assert choice["logprobs"]["content"][0]["logprob"] == -9999.0


@given(text=texts, reasoning=texts, arguments=st.lists(texts, max_size=2))
def test_a_replayed_stream_has_the_content_of_the_non_streaming_response(
    text, reasoning, arguments
):
    calls = [ToolCall(f"c{i}", "f", text) for i, text in enumerate(arguments)]
    choice = ChoiceResult(text, "tool_calls" if calls else "stop", reasoning, calls)
    answer = Result([choice], TokenCounts(3, 4, 1))
    chat = encoder(stream_options=USAGE, reasons=True)
    chunks = chunks_of(replay(chat.stream_encoder(), answer))
    message = json.loads(chat.encode(answer))["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(d.get("content", "") for d in deltas) == (message["content"] or "")
    assert "".join(d.get("reasoning", "") for d in deltas) == (message["reasoning"] or "")
    streamed = [call for d in deltas for call in d.get("tool_calls", [])]
    assert [{k: v for k, v in c.items() if k != "index"} for c in streamed] == message.get(
        "tool_calls", []
    )
    assert chunks[-2]["choices"][0]["finish_reason"] == choice.finish_reason
    assert chunks[-1]["usage"]["total_tokens"] == 7
