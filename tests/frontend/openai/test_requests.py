"""What a chat request may hold: every field is served, taken without effect, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.errors import InvalidRequestError, VGateError
from vgate.frontend.openai.requests import (
    MAX_CHOICES,
    MAX_STOPS,
    ChatRequest,
    decode_chat,
    template_messages,
)
from vgate.wire.sampling import FIELDS

HI = {"role": "user", "content": "Hi"}
MINIMAL: dict[str, Any] = {"model": "m", "messages": [HI]}


def decode(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({**MINIMAL, **fields}).encode())


def refusal(body: bytes | None = None, **fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(body) if body is not None else decode(**fields)
    assert caught.value.status == 400
    return caught.value


ACCEPTED = {
    "user": "u",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "auto",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "parallel_tool_calls": False,
}
REFUSED = {
    "tools": [[{"type": "function"}]],
    "tool_choice": ["required", {"type": "function"}],
    "functions": [[{"name": "f"}]],
    "function_call": [{"name": "f"}],
    "response_format": [{"type": "json_object"}, {"type": "json_schema"}, "text"],
    "logprobs": [True],
    "top_logprobs": [5],
    "logit_bias": [{"5": 1}],
    "modalities": [["text", "audio"], ["audio"]],
    "audio": [{"voice": "v"}],
    "prediction": [{"type": "content"}],
    "reasoning_effort": ["low"],
    "verbosity": ["low"],
    "web_search_options": [{}],
    "moderation": [{}],
}
NEUTRAL = {
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
    "modalities": [["text"]],
}
SERVED = {
    *("model", "messages", "max_completion_tokens", "stop", "n", "stream", "stream_options"),
    *FIELDS,
}


class TestFields:
    def test_every_field_is_sorted_into_one_of_the_kinds(self):
        kinds = [set(ACCEPTED), set(REFUSED), SERVED]
        assert set().union(*kinds) == set(ChatRequest.__struct_fields__)
        assert sum(map(len, kinds)) == len(ChatRequest.__struct_fields__)

    def test_the_least(self):
        request = decode()
        assert (request.model, request.stops, request.token_limit) == ("m", (), None)
        assert not request.include_usage

    @pytest.mark.parametrize("name", sorted(ACCEPTED))
    def test_what_concerns_openai_s_platform_is_taken(self, name):
        decode(**{name: ACCEPTED[name]})

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
    )
    def test_what_would_change_the_answer_is_refused_by_name(self, name, value):
        error = refusal(**{name: value})
        assert (error.code, error.param) == ("unsupported_parameter", name)
        assert f"`{name}`" in error.message

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values]
    )
    def test_its_neutral_values_pass(self, name, value):
        decode(**{name: value})

    @pytest.mark.parametrize("name", sorted(set(ChatRequest.__struct_fields__) - {"model"}))
    def test_null_means_not_given(self, name):
        if name == "messages":
            assert refusal(messages=None).param == "messages"
        else:
            assert decode(**{name: None}) == decode()

    @pytest.mark.parametrize("name", ["temprature", "best_of", "guided_json", "", "a.b", "é"])
    def test_an_unknown_field_is_refused_by_name(self, name):
        error = refusal(**{name: 1})
        assert (error.code, error.param) == ("unknown_parameter", name or None)

    @pytest.mark.parametrize("name", ["model", "messages"])
    def test_what_is_required(self, name):
        error = refusal(json.dumps({k: v for k, v in MINIMAL.items() if k != name}).encode())
        assert (error.code, error.param) == ("invalid_value", name)
        assert "is required" in error.message


class TestBounds:
    @pytest.mark.parametrize(
        ("name", "inside", "outside"),
        [
            ("temperature", [0, 2, 0.5], [-0.1, 2.1, "1", True, []]),
            ("top_p", [0.01, 1], [0, 1.1, -1]),
            ("presence_penalty", [-2, 2], [-2.1, 2.1]),
            ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
            ("seed", [0, -(2**63), 2**63 - 1], [2**63, -(2**63) - 1, 1.5, 10**40]),
            ("top_k", [-1, 0, 50], [-2, 10**40, 1.5]),
            ("min_p", [0, 1], [-0.1, 1.1]),
            ("repetition_penalty", [0.1, 2], [0, 2.1]),
            ("max_tokens", [1, 100], [0, -1, 1.5, "1"]),
            ("max_completion_tokens", [1, 100], [0, -1, 1.5]),
            ("min_tokens", [0, 5], [-1, 10**40]),
            ("stop_token_ids", [[], [0, 5], [1] * 64], [[-1], [2**31], [1] * 65, 5]),
            ("ignore_eos", [True, False], [1, "true"]),
            (
                "stop",
                ["x", ["x"], [], ["x"] * MAX_STOPS, "é" * 1024],
                ["", [""], ["x"] * (MAX_STOPS + 1), "x" * 1025, 5, [5]],
            ),
            ("n", [1, MAX_CHOICES], [0, MAX_CHOICES + 1, 1.5]),
            ("stream", [True, False], [1, "true"]),
            ("model", ["x"], ["", 5, None]),
            ("messages", [[HI], [HI] * 100], [[], "Hi", {}, [5], [[]], [None]]),
            ("metadata", [{}, {"a": 1}], [[], "x"]),
            ("user", [""], [5]),
        ],
    )
    def test_what_is_in_and_what_is_out(self, name, inside, outside):
        for value in inside:
            assert getattr(decode(**{name: value}), name) is not None
        for value in outside:
            error = refusal(**{name: value})
            assert error.code == "invalid_value"
            assert error.param is not None
            assert error.param.startswith(name)

    def test_the_message_shows_the_value_and_the_bound(self):
        error = refusal(temperature=3)
        assert error.message == "`temperature` must be a number <= 2.0, got 3"

    def test_a_large_value_is_not_sent_back_whole(self):
        assert len(refusal(temperature="x" * 100_000).message) < 300


class TestCombinations:
    def test_either_name_limits_the_answer(self):
        assert decode(max_tokens=5).token_limit == 5
        assert decode(max_completion_tokens=5).token_limit == 5

    def test_both_names_at_once_are_refused(self):
        assert refusal(max_tokens=5, max_completion_tokens=5).param == "max_tokens"

    def test_stream_options_need_a_stream(self):
        assert refusal(stream_options={"include_usage": True}).param == "stream_options"
        assert refusal(stream=False, stream_options={}).param == "stream_options"
        assert decode(stream=True, stream_options={"include_usage": True}).include_usage
        assert not decode(stream=True, stream_options={}).include_usage
        assert not decode(stream=True, stream_options={"include_usage": None}).include_usage

    def test_unknown_stream_options_are_refused(self):
        error = refusal(stream=True, stream_options={"usage": True})
        assert error.param == "stream_options.usage"

    def test_min_tokens_has_to_fit_the_limit(self):
        decode(min_tokens=5, max_tokens=5)
        assert refusal(min_tokens=6, max_tokens=5).param == "min_tokens"
        assert refusal(min_tokens=6, max_completion_tokens=5).param == "min_tokens"

    @pytest.mark.parametrize(
        ("stop", "stops"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())]
    )
    def test_stops(self, stop, stops):
        assert decode(stop=stop).stops == stops


class TestMessages:
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
    def test_roles(self, role):
        decode(messages=[{"role": role, "content": "x"}])

    @pytest.mark.parametrize("role", ["tool", "function"])
    def test_roles_of_tools_are_refused(self, role):
        error = refusal(messages=[HI, {"role": role, "content": "x"}])
        assert (error.code, error.param) == ("unsupported_parameter", "messages[1].role")

    @pytest.mark.parametrize("role", ["User", "", "bot", None, 5])
    def test_other_roles_are_invalid(self, role):
        assert refusal(messages=[{"role": role, "content": "x"}]).param == "messages[0].role"

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"content": "x"}, "messages[0].role"),
            ({"role": "user"}, "messages[0].content"),
            ({"role": "user", "content": None}, "messages[0].content"),
            ({"role": "user", "content": 5}, "messages[0].content"),
            ({"role": "user", "content": "x", "extra": 1}, "messages[0].extra"),
            ({"role": "user", "content": [5]}, "messages[0].content[0]"),
            ({"role": "user", "content": [{}]}, "messages[0].content[0].type"),
            ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
            (
                {"role": "user", "content": [{"type": "text", "text": None}]},
                "messages[0].content[0].text",
            ),
            (
                {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
                "messages[0].tool_calls",
            ),
            (
                {"role": "assistant", "content": "x", "function_call": {}},
                "messages[0].function_call",
            ),
            ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "messages[0].audio"),
            ({"role": "user", "content": "x", "tool_call_id": "1"}, "messages[0].tool_call_id"),
        ],
    )
    def test_a_bad_message_is_named(self, message, param):
        assert refusal(messages=[message]).param == param

    @pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", ""])
    def test_other_media_are_refused(self, kind):
        parts = [{"type": "text", "text": "x"}, {"type": kind, kind or "x": {"url": "data:"}}]
        error = refusal(messages=[{"role": "user", "content": parts}])
        assert (error.code, error.param) == (
            "unsupported_parameter",
            "messages[0].content[1].type",
        )

    def test_what_templates_get(self):
        request = decode(
            messages=[
                {"role": "developer", "content": "rules"},
                {"role": "user", "content": "text", "name": "alice"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {"role": "assistant", "content": "", "refusal": None, "tool_calls": None},
            ]
        )
        assert template_messages(request.messages) == [
            {"role": "system", "content": "rules"},
            {"role": "user", "content": "text", "name": "alice"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": ""},
        ]


class TestBytes:
    @pytest.mark.parametrize(
        "body",
        [b"", b" ", b"{", b'{"model": "m", ', b"nul", b"{'model': 1}", b"\xff", b"NaN"],
    )
    def test_what_is_no_json(self, body):
        assert refusal(body).code == "invalid_json"

    @pytest.mark.parametrize("body", [b"null", b"5", b'"x"', b"[]", b"true"])
    def test_json_that_is_no_object(self, body):
        error = refusal(body)
        assert (error.code, error.param) == ("invalid_value", None)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"model": "\xff", "messages": [{"role": "user", "content": "x"}]}',
            b'{"model": "m", "messages": [{"role": "user", "content": "\xc3\x28"}]}',
            b'{"\xff": 1}',
            b"\xff\xfe{\0}\0",
        ],
    )
    def test_what_is_no_utf8(self, body):
        assert refusal(body).code == "invalid_json"

    @pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"\ud800\ud800", r"x\udfffx"])
    @pytest.mark.parametrize(
        "template",
        [
            '{"model": "%s", "messages": [{"role": "user", "content": "x"}]}',
            '{"model": "m", "messages": [{"role": "user", "content": "%s"}]}',
            '{"model": "m", "messages": [{"role": "user", "content": "x"}], "stop": "%s"}',
            '{"model": "m", "messages": [{"role": "user", "content": "x"}], "user": "%s"}',
            '{"model": "m", "messages": [{"role": "user", "content": "x"}], "%s": 1}',
            '{"model": 5, "messages": "%s"}',
        ],
    )
    def test_half_a_character_is_refused(self, template, escape):
        refusal((template % escape).encode())

    @pytest.mark.parametrize(
        "body",
        [
            b'{"metadata": {"a": %s}}' % (b"[" * 100_000 + b"]" * 100_000),
            b'{"tools": %s}' % (b"[" * 100_000),
            b'{"model": 5, "tools": %s}' % (b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
            b"[" * 100_000,
        ],
    )
    def test_deep_nesting(self, body):
        refusal(body)

    @pytest.mark.parametrize("rest", [b"", b",", b"\xff", b"[" * 100_000, rb'"\ud800"'])
    def test_what_follows_the_first_fault_does_not_matter(self, rest):
        assert refusal(b'{"model": 5, ' + rest).param == "model"

    def test_a_repeated_field_is_checked_each_time(self):
        body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 1, "n": 99}'
        assert refusal(body).param == "n"

    @settings(max_examples=300)
    @given(st.binary(max_size=100))
    def test_noise(self, body):
        refusal(body)

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_damaged_requests_are_served_or_refused(self, data):
        whole = {
            **MINIMAL,
            "temperature": 0.5,
            "stop": ["a", "é"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "metadata": {"a": [1, {"b": None}]},
        }
        body = bytearray(json.dumps(whole, ensure_ascii=False).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        try:
            decode_chat(bytes(body[: data.draw(st.integers(0, len(body)))]))
        except InvalidRequestError as error:
            assert error.message  # noqa: PT017 - both ends are right

    @settings(max_examples=300, deadline=None)
    @given(
        name=st.sampled_from(ChatRequest.__struct_fields__),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
    def test_any_value_of_any_field_is_served_or_refused(self, name, value):
        try:
            decode(**{name: value})
        except InvalidRequestError as error:
            assert error.message  # noqa: PT017 - both ends are right
