"""What a chat request may hold: every field is served, taken without effect, or refused by name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.errors import InvalidRequestError, InvalidValueError, VGateError
from vgate.frontend.apis.openai.chat.request import (
    ChatRequest,
    decode_chat,
    generation_of,
)
from vgate.frontend.apis.openai.common import MAX_CHOICES, MAX_STOPS, StreamOptions
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import TEMPLATE_FIELDS, Generation
from vgate.frontend.pipeline.generation import shape_of

HI = {"role": "user", "content": "Hi"}
MINIMAL: dict[str, Any] = {"model": "m", "messages": [HI]}


def decode(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({**MINIMAL, **fields}).encode(), Ignored())


def shape(**fields: Any) -> Generation:
    return shape_of(generation_of(decode(**fields)))


def refusal(body: bytes | None = None, **fields: Any) -> VGateError:
    given = json.dumps({**MINIMAL, **fields}).encode() if body is None else body
    with pytest.raises(InvalidRequestError) as caught:
        generation_of(decode_chat(given, Ignored(refuse_unknown=True)))
    assert caught.value.status == 400
    return caught.value


def told(**fields: Any) -> list[str]:
    """Return the fields that a request is served without."""
    ignored = Ignored()
    generation_of(decode_chat(json.dumps({**MINIMAL, **fields}).encode(), ignored))
    return ignored.names


NEUTRAL = {
    "best_of": [1],
    "suffix": [""],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "early_stopping": [False],
    "logits_processors": [[]],
    "logprob_token_ids": [[]],
    "thinking_token_budget": [-1],
    "watermarking": [False],
    "stream_interval": [1],
    "return_token_offsets": [False],
    "return_prompt_text": [False],
    "routed_experts_prompt_start": [0],
    "kv_transfer_params": [{}],
    "ec_transfer_params": [{}],
    "vllm_xargs": [{}],
    "mm_processor_kwargs": [{}],
    "media_io_kwargs": [{}],
    "mm_payload": ["tensors"],
    "return_mm_kwargs": [True],
    "functions": [[]],
    "verbosity": ["medium"],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
}


class TestFields:
    def test_the_least(self):
        request = decode()
        assert (request.model, request.stop, request.token_limit) == ("m", None, None)
        assert request.stream_options is None

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values]
    )
    def test_neutral_values_of_what_is_refused_pass(self, name, value):
        assert told(**{name: value}) == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("length_penalty", 0.9),
            ("early_stopping", 0),
            ("verbosity", "low"),
            ("thinking_token_budget", 100),
            ("vllm_xargs", {"a": 1}),
            ("wat", 1),
            ("num_ctx", 4096),
            ("keep_alive", "5m"),
            ("mirostat", 2),
        ],
    )
    def test_what_only_tunes_or_is_unknown_is_told(self, name, value):
        assert told(**{name: value}) == [name]

    @pytest.mark.parametrize(
        ("fields", "served"),
        [
            ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
            ({"guided_json": {}}, {"structured_outputs": {"json": {}}}),
            ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
            (
                {"guided_grammar": 'root ::= "a"'},
                {"structured_outputs": {"grammar": 'root ::= "a"'}},
            ),
            ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
            ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
            ({"num_predict": 5}, {"max_tokens": 5}),
            ({"guided_json": None, "num_predict": None}, {}),
            ({"guided_regex": "a", "structured_outputs": None}, {"guided_regex": "a"}),
            ({"max_tokens": "2"}, {"max_tokens": 2}),
            ({"temperature": "0.5", "max_tokens": 2.0}, {"temperature": 0.5, "max_tokens": 2}),
        ],
    )
    def test_other_spellings_are_served(self, fields, served):
        assert told(**fields) == []
        assert shape(**fields) == shape(**served)

    def test_a_field_keeps_its_value_if_another_spelling_is_there(self):
        assert decode(max_tokens=3, num_predict=5).max_tokens == 3
        assert told(max_tokens=3, num_predict=5) == ["num_predict"]

    def test_null_says_nothing(self):
        assert told(wat=None, messages=[{**HI, "provider_specific_fields": None}]) == []

    def test_unknown_fields_inside_are_told_once(self):
        many = [{**HI, "thinking_blocks": [1], "provider_specific_fields": {}} for _ in range(9)]
        tool = {"function": {"name": "f", "x": 1}, "cache_control": {"type": "ephemeral"}}
        assert sorted(told(messages=many, tools=[tool])) == [
            "messages[].provider_specific_fields",
            "messages[].thinking_blocks",
            "tools[].cache_control",
            "tools[].function.x",
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("best_of", True),
            ("use_beam_search", 0),
            ("functions", {}),
            ("modalities", ["audio"]),
            ("function_call", {"name": "none"}),
        ],
    )
    def test_what_is_only_like_a_neutral_value_is_refused(self, name, value):
        error = refusal(**{name: value})
        assert (error.code, error.param) == ("unsupported_parameter", name)

    @pytest.mark.parametrize(
        ("name", "instead"), [("functions", "`tools`"), ("function_call", "`tool_choice`")]
    )
    def test_a_refusal_says_what_to_use_instead(self, name, instead):
        assert instead in refusal(**{name: [{"name": "f"}]}).message

    @pytest.mark.parametrize("name", sorted(set(ChatRequest.__struct_fields__) - {"model"}))
    def test_null_means_not_given(self, name):
        if name == "messages":
            assert refusal(messages=None).param == "messages"
        else:
            assert decode(**{name: None}) == decode()

    @pytest.mark.parametrize("name", ["temprature", "num_ctx", "", "a.b", "é"])
    def test_an_unknown_field_is_refused_by_name(self, name):
        error = refusal(**{name: 1})
        assert (error.code, error.param) == ("unknown_parameter", name or None)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("temprature", "did you mean `temperature`?"),
            ("max_token", "did you mean `max_tokens`?"),
            ("tool_choise", "did you mean `tool_choice`?"),
        ],
    )
    def test_what_was_probably_meant_is_said(self, name, meant):
        assert meant in refusal(**{name: 1}).message

    @pytest.mark.parametrize("name", ["xyz", "t" * 100_000, "messages" * 9])
    def test_nothing_is_guessed_of_what_is_far_from_everything(self, name):
        assert "did you mean" not in refusal(**{name: 1}).message

    def test_what_is_required(self):
        error = refusal(b'{"model": "m"}')
        assert (error.code, error.param) == ("invalid_value", "messages")
        assert "is required" in error.message

    def test_the_model_may_be_left_out(self):
        assert (
            generation_of(decode_chat(b'{"messages": [{"role": "user"}]}', Ignored())).model == ""
        )


class TestBounds:
    @pytest.mark.parametrize(
        ("name", "inside", "outside"),
        [
            ("temperature", [0, 2, 0.5, 9, "1"], [-0.1, "x", True, []]),
            ("top_p", [0.01, 1], [0, 1.1, -1]),
            ("presence_penalty", [-2, 2], [-2.1, 2.1]),
            ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
            ("seed", [0, -(2**63), 2**63 - 1], [2**63, -(2**63) - 1, 1.5, 10**40]),
            ("top_k", [-1, 0, 50], [-2, 10**40, 1.5]),
            ("min_p", [0, 1], [-0.1, 1.1]),
            ("repetition_penalty", [0.1, 2, 2.5], [0, -1]),
            ("max_tokens", [1, 100, "1", 2.0], [0, -2, 1.5, "x"]),
            ("max_completion_tokens", [1, 100], [0, -2, 1.5]),
            ("min_tokens", [0, 5], [-1, 10**40]),
            ("stop_token_ids", [[], [0, 5], [1] * 1024], [[-1], [2**31], [1] * 1025, 5]),
            ("ignore_eos", [True, False, 1, "true"], [2, "x"]),
            (
                "stop",
                ["x", ["x"], [], ["x"] * MAX_STOPS, "é" * 1024],
                ["", [""], ["x"] * (MAX_STOPS + 1), "x" * 1025, 5, [5]],
            ),
            ("n", [1, MAX_CHOICES], [0, MAX_CHOICES + 1, 1.5]),
            ("stream", [True, False, 1, "true"], [2, "x"]),
            ("model", ["x", ""], [5]),
            ("messages", [[HI], [HI] * 100], [[], "Hi", {}, [5], [[]], [None]]),
            ("metadata", [{}, {"a": 1}], [[], "x"]),
            (
                "logit_bias",
                [{"0": 100, "5": -100}, {"5": 101}],
                [{"-1": 1}, {"x": 1}, {"5": "x"}, {"5": []}],
            ),
            ("allowed_token_ids", [[1], ["1"]], [[], [-1], ["x"]]),
            ("bad_words", [[], ["x"] * 128], [[""], ["x"] * 129, "x", ["x" * 1025]]),
            ("top_logprobs", [0], [-2, 1.5, True]),
            ("prompt_logprobs", [0, 5, -1, "1"], [-2, "x"]),
            ("truncate_prompt_tokens", [-1, 1], [-2, 0, 1.5]),
            ("cache_salt", ["x", "é" * 128], ["", "x" * 129, "a@b", "a/b", "a\\b", "a\0", "a\n\0"]),
            ("priority", [-5, 0, 5], [2**31, 1.5]),
            ("reasoning_effort", ["none", "xhigh", "max", "ultra"], ["", 5]),
            ("chat_template", ["x"], ["", "x" * 65_537, 5]),
            ("chat_template_kwargs", [{}, {"a": [1, None]}], [[], "x"]),
            ("documents", [[], [{"text": "x"}]], [{}, ["x"], [{}] * 1025]),
            ("echo", [True, False, 1, "true"], [2, "x"]),
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
        error = refusal(temperature=-3)
        assert error.message == "`temperature` must be a number >= 0.0, got -3"

    def test_a_large_value_is_not_sent_back_whole(self):
        assert len(refusal(temperature="x" * 100_000).message) < 300


class TestCombinations:
    def test_either_name_limits_the_answer(self):
        assert decode(max_tokens=5).token_limit == 5
        assert decode(max_completion_tokens=5).token_limit == 5

    def test_of_both_names_the_newer_one_holds(self):
        assert decode(max_tokens=9, max_completion_tokens=5).token_limit == 5
        assert told(max_tokens=5, max_completion_tokens=5) == []
        assert told(max_tokens=9, max_completion_tokens=5) == ["max_tokens"]

    def test_a_bias_is_bounded_as_in_vllm(self):
        sampling = generation_of(decode(logit_bias={"1": 101, "2": -1e9, "3": 5})).sampling
        assert sampling.logit_bias == {1: 100, 2: -100, 3: 5}

    def test_stream_options_need_a_stream(self):
        assert refusal(stream_options={"include_usage": True}).param == "stream_options"
        for nothing in ({}, {"include_usage": None}):
            decode(stream=False, stream_options=nothing)

    @pytest.mark.parametrize("given", [{"include_usage": True}, {}, {"include_usage": None}])
    def test_stream_options(self, given):
        assert decode(stream=True, stream_options=given).stream_options == StreamOptions(**given)

    def test_unknown_stream_options_are_refused(self):
        error = refusal(stream=True, stream_options={"usage": True})
        assert error.param == "stream_options.usage"

    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ({}, None),
            ({"logprobs": False}, None),
            ({"logprobs": False, "top_logprobs": 0}, None),
            ({"logprobs": True}, 0),
            ({"logprobs": True, "top_logprobs": 5}, 5),
        ],
    )
    def test_log_probabilities(self, fields, wanted):
        assert generation_of(decode(**fields)).logprobs == wanted

    def test_the_most_likely_tokens_need_log_probabilities(self):
        assert refusal(top_logprobs=5).param == "top_logprobs"
        assert refusal(top_logprobs=5, logprobs=False).param == "top_logprobs"

    def test_log_probabilities_of_the_prompt_are_not_streamed(self):
        assert generation_of(decode(prompt_logprobs=1)).prompt_logprobs == 1
        assert refusal(prompt_logprobs=1, stream=True).param == "prompt_logprobs"
        assert refusal(prompt_logprobs=-1, stream=True).param == "prompt_logprobs"
        assert told(prompt_logprobs=0, stream=True) == ["prompt_logprobs"]

    def test_a_side_needs_a_length(self):
        assert told(truncation_side="right", truncate_prompt_tokens=5) == []
        assert told(truncation_side="right") == ["truncation_side"]

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "num_predict"])
    @pytest.mark.parametrize("value", [-1, "-1", -1.0])
    def test_minus_one_is_no_limit(self, name, value):
        assert decode(**{name: value}).token_limit is None
        assert told(**{name: value}) == []

    def test_a_bad_key_of_a_bias_is_named(self):
        with pytest.raises(InvalidValueError, match='keys are each an integer, got "the"'):
            decode(logit_bias={"5": 1, "the": 2})

    def test_choices(self):
        assert [generation_of(decode(n=n)).choices for n in (None, 1, 3)] == [1, 1, 3]

    def test_reasoning_is_shown_unless_it_is_not_wanted(self):
        shown = [shape(include_reasoning=v).show_reasoning for v in (None, True, False)]
        assert shown == [True, True, False]

    def test_min_tokens_has_to_fit_the_limit(self):
        decode(min_tokens=5, max_tokens=5)
        assert refusal(min_tokens=6, max_tokens=5).param == "min_tokens"
        assert refusal(min_tokens=6, max_completion_tokens=5).param == "min_tokens"

    @pytest.mark.parametrize(
        ("stop", "stops"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())]
    )
    def test_stops(self, stop, stops):
        assert generation_of(decode(stop=stop)).stops == stops


class TestContinuing:
    TALK = (HI, {"role": "assistant", "content": "I am"})

    def test_a_new_message_begins_unless_the_last_goes_on(self):
        assert decode().generation_prompt
        assert not decode(add_generation_prompt=False).generation_prompt
        assert not decode(continue_final_message=True).generation_prompt
        assert decode(continue_final_message=False).generation_prompt
        neither = decode(continue_final_message=True, add_generation_prompt=False)
        assert not neither.generation_prompt

    def test_not_both(self):
        error = refusal(continue_final_message=True, add_generation_prompt=True)
        assert error.param == "continue_final_message"

    def test_there_must_be_something_to_continue(self):
        messages = [HI, {"role": "assistant", "content": ""}]
        error = refusal(continue_final_message=True, messages=messages)
        assert error.param == "continue_final_message"

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({}, ""),
            ({"echo": True}, "I am"),
            ({"echo": True, "continue_final_message": True}, "I am"),
            ({"echo": True, "messages": [HI]}, ""),
            ({"echo": True, "messages": [HI], "add_generation_prompt": False}, "Hi"),
        ],
    )
    def test_echo(self, fields, text):
        assert decode(**{"messages": list(self.TALK), **fields}).echo_text == text


class TestTemplateFields:
    @pytest.mark.parametrize("name", sorted(TEMPLATE_FIELDS))
    def test_variables_that_are_fields_are_left_out_and_told(self, name):
        given = {name: 1, "mine": 2}
        assert told(chat_template_kwargs=given) == [f"chat_template_kwargs.{name}"]
        prompt = generation_of(decode(chat_template_kwargs=given)).prompt
        assert prompt.template_kwargs == {"mine": 2}

    @pytest.mark.parametrize("name", ["chat_template_kwargs", "documents"])
    @pytest.mark.parametrize("value", [10**30, -(10**30), "deep"])
    def test_what_could_not_be_carried_is_refused(self, name, value):
        deep: Any = 1
        for _ in range(100):
            deep = [deep]
        inner = {"a": [deep if value == "deep" else value]}
        error = refusal(**{name: [inner] if name == "documents" else inner})
        assert (error.code, error.param) == ("invalid_value", name)


class TestShaping:
    @pytest.mark.parametrize(
        "fields",
        [
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"priority": 5},
            {"model": "alias"},
            {"user": "u", "metadata": {"a": "b"}},
            {"tool_choice": "none"},
        ],
    )
    def test_what_does_not_shape(self, fields):
        assert shape(**fields) == shape()

    @pytest.mark.parametrize(
        "fields",
        [
            {"cache_salt": "x"},
            {"return_token_ids": True},
            {"logprobs": True},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"response_format": {"type": "json_object"}},
            {"chat_template_kwargs": {"a": 1}},
            {"include_reasoning": False},
            {"stop": "x"},
            {"n": 2},
        ],
    )
    def test_what_does(self, fields):
        assert shape(**fields) != shape()

    @settings(max_examples=200, deadline=None)
    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        place=st.sampled_from(
            [
                lambda v: {"chat_template_kwargs": {"a": v}},
                lambda v: {"documents": [{"a": v}]},
                lambda v: {"tools": [{"type": "function", "function": _function(v)}]},
                lambda v: {"response_format": _schema(v)},
                lambda v: {"response_format": {"type": "structural_tag", "format": v}},
                lambda v: {"structured_outputs": {"json": {"a": v}}},
                lambda v: {"messages": [_call({"a": v})]},
                lambda v: {"messages": [{**HI, "annotations": v}]},
                lambda v: {"tools": [TOOL], "tool_choice": _allowed(v)},
                lambda v: {"metadata": {"a": v}},
            ]
        ),
    )
    def test_what_is_served_can_be_digested(self, value, place):
        try:
            generation = generation_of(decode(**place(value)))
        except InvalidRequestError:
            return
        msgspec.msgpack.encode(shape_of(generation))


TOOL = {"type": "function", "function": {"name": "f"}}


def _function(value):
    return {"name": "f", "parameters": {"a": value}}


def _schema(value):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": value}}}


def _call(arguments):
    function = {"name": "f", "arguments": arguments}
    call = {"id": "1", "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call]}


def _allowed(value):
    tools = [{"type": "function", "function": {"name": "f", "a": value}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


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
        assert refusal(b'{"zzz": 5, ' + rest).code == "invalid_json"

    def test_a_repeated_field_is_checked_each_time(self):
        body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 1, "n": 1025}'
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
            decode_chat(bytes(body[: data.draw(st.integers(0, len(body)))]), Ignored())
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
