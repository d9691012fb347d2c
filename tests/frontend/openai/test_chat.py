"""Frames put together from parts are the same JSON as whole objects."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.errors import EngineUnavailableError
from vgate.frontend.openai.chat import (
    DONE,
    ChatCompletion,
    Choice,
    ChunkFrames,
    Message,
    Usage,
    error_frame,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))


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
        return ChunkFrames("chatcmpl-1", 7, name, with_usage=with_usage)

    @pytest.mark.parametrize("index", [0, 15])
    def test_the_first(self, with_usage, index):
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        frame = self.frames(with_usage).role(index)
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
        frame = frames.prefix(3) + msgspec.json.encode(text) + frames.suffix
        assert data_of(frame) == expected([choice], with_usage=with_usage)

    @pytest.mark.parametrize("reason", ["stop", "length"])
    def test_the_last(self, with_usage, reason):
        choice = {"index": 2, "delta": {}, "logprobs": None, "finish_reason": reason}
        frame = self.frames(with_usage).finish(2, reason)
        assert data_of(frame) == expected([choice], with_usage=with_usage)

    @given(name=texts)
    def test_any_model_name(self, with_usage, name):
        frame = self.frames(with_usage, name).finish(0, "stop")
        assert data_of(frame)["model"] == name

    @pytest.mark.parametrize("name", ["100%s %d%%", '"', "\\", "\n", "</script>", "\u2028"])
    def test_names_that_look_like_format(self, with_usage, name):
        for frame in (self.frames(with_usage, name).role(0),):
            assert data_of(frame)["model"] == name


def test_the_usage_chunk_has_no_choice():
    frames = ChunkFrames("chatcmpl-1", 7, "m", with_usage=True)
    usage = Usage.of(10, 5, 3)
    assert data_of(frames.usage(usage)) == expected(
        [], with_usage=True, usage=msgspec.to_builtins(usage)
    )


def test_usage_adds_up():
    usage = Usage.of(10, 5, 3)
    assert usage.total_tokens == 15
    assert usage.prompt_tokens_details.cached_tokens == 3


def test_done_is_openai_s():
    assert DONE == b"data: [DONE]\n\n"


def test_an_error_is_an_event():
    frame = error_frame(EngineUnavailableError("line\nbreak"))
    error = data_of(frame)["error"]
    assert (error["message"], error["code"]) == ("line\nbreak", "engine_unavailable")


def test_a_whole_response_has_openai_s_fields():
    completion = ChatCompletion("i", 7, "m", [Choice(0, Message("x"), "stop")], Usage.of(1, 2, 0))
    assert json.loads(msgspec.json.encode(completion)) == {
        "id": "i",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "service_tier": None,
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
