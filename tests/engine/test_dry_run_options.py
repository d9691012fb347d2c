"""Structured output, token rules and logprobs of the dry-run engine, beyond the contract suite."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import DryRun
from vgate.engine.backends.dry_run.backend import DryRunBackend
from vgate.engine.backends.dry_run.sequence import Rules, logprobs_at
from vgate.engine.backends.dry_run.structured import text_of
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, USER
from vgate.engine.request import Request, RequestError
from vgate.wire.parameters import DEFAULTS, GenerateOptions, SamplingParams, StructuredOutput

CALLS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": ["get_weather"]},
                    "parameters": {
                        "type": "object",
                        "title": "Weather",
                        "properties": {
                            "city": {"type": "string", "description": "where"},
                            "days": {"type": "integer", "minimum": 1},
                        },
                        "required": ["city"],
                    },
                },
                "required": ["name", "parameters"],
            }
        ]
    },
}


def answer(text: str, options: GenerateOptions, **sampling: object) -> str:
    """Return the engine's output for a message, without its end token."""
    settings = DryRun(step_ms=0, prefill_tokens_per_s=1e9)
    backend = DryRunBackend(
        Config(model=Model(model_id="built-in"), dry_run=settings), lambda _phase: None
    )
    prompt = [USER, *text.encode(), END, ASSISTANT]
    chosen = SamplingParams(**{"max_tokens": 1000, **sampling}).over(DEFAULTS)
    request = Request("1", prompt, chosen)
    request.options = options
    backend.add(request)
    said: list[int] = []
    while backend.has_work():
        for output in backend.step():
            said += output.token_ids
    return bytes(token for token in said if token < END).decode()


def json_of(schema: object, message: str = "Hello!", **fields: bool) -> str:
    structured = StructuredOutput("json", json.dumps(schema), **fields)
    return answer(message, GenerateOptions(structured=structured))


class TestJson:
    @pytest.mark.parametrize(
        ("schema", "text"),
        [
            (CALLS, '[{"name":"get_weather","parameters":{"city":""}}]'),
            ({"type": "object"}, "{}"),
            ({"type": "array", "items": {"type": "null"}, "minItems": 2}, "[null,null]"),
            ({"type": "string"}, '""'),
            ({"type": "integer"}, "0"),
            ({"type": "integer", "minimum": 3}, "3"),
            ({"type": "number", "minimum": 2.5}, "3"),
            ({"type": "integer", "maximum": -3}, "-3"),
            ({"type": ["integer", "null"], "minimum": 1}, "null"),
            ({"type": "boolean"}, "false"),
            ({"enum": ["b", "a"]}, '"b"'),
            ({"type": "integer", "enum": [7, 8]}, "7"),
            ({"const": {"x": [1]}}, '{"x":[1]}'),
            ({"type": "object", "required": ["é"]}, '{"é":null}'),
            ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "0"),
            ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, "1"),
            (True, "null"),
        ],
    )
    def test_a_minimal_value_of_a_schema(self, schema, text):
        assert json_of(schema) == text

    def test_a_recursive_schema(self):
        tree = {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
                "right": {"type": "array", "items": {"$ref": "#"}},
            },
            "required": ["left", "right"],
        }
        value = json.loads(json_of(tree))
        while value is not None:
            assert set(value) == {"left", "right"}
            assert value["right"] == []
            value = value["left"]

    @pytest.mark.parametrize(
        "message",
        [
            '[{"name": "get_weather", "parameters": {"city": "Ulm", "days": 2}}]',
            ' [{"name":"get_weather","parameters":{"city":"Oslo"}}]\n',
        ],
    )
    def test_a_conforming_message_is_output_as_it_is(self, message):
        assert json_of(CALLS, message) == message.strip()

    def test_compact_if_requested(self):
        text = '{"a": [1, 2], "ü": true}'
        assert json_of({"type": "object"}, text, disable_any_whitespace=True) == (
            '{"a":[1,2],"ü":true}'
        )

    @pytest.mark.parametrize(
        "message",
        [
            '[{"name": "other", "parameters": {"city": "Ulm"}}]',
            '[{"name": "get_weather", "parameters": {}}]',
            '[{"name": "get_weather", "parameters": {"city": 1}}]',
            '[{"name": "get_weather", "parameters": {"city": "Ulm", "days": 0}}]',
            "[]",
            "{",
            "Hello",
        ],
    )
    def test_a_message_that_does_not_conform_is_replaced(self, message):
        assert json_of(CALLS, message) == '[{"name":"get_weather","parameters":{"city":""}}]'

    @pytest.mark.parametrize(
        "keyword", ["pattern", "format", "allOf", "oneOf", "minLength", "uniqueItems", "not", "if"]
    )
    def test_an_unsupported_keyword_is_named(self, keyword):
        schema = {"type": "object", "properties": {"x": {keyword: {}}}}
        with pytest.raises(RequestError, match=f"without `{keyword}`") as caught:
            json_of(schema)
        error = caught.value
        assert (error.code, error.subject) == ("unsupported_parameter", "constraint")

    @pytest.mark.parametrize(
        "schema",
        [
            False,
            {"type": "object", "required": ["x"], "additionalProperties": False},
            {"type": "integer", "enum": ["b", 7]},
            {"type": "array", "minItems": 2, "maxItems": 1},
            {"type": "integer", "minimum": 2, "maximum": 1},
            {"$ref": "#"},
            {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
            {"type": "array", "minItems": 10**9},
            {"type": [["a"]]},
            {"type": "object", "required": [[]]},
            {"properties": {"x": 5}},
            {"enum": 3},
            {"$ref": "#/$defs/x/enum", "$defs": {"x": {"enum": [1]}}},
        ],
    )
    def test_a_malformed_or_unsatisfiable_schema_is_refused(self, schema):
        with pytest.raises(RequestError) as caught:
            json_of(schema)
        assert caught.value.code == "invalid_value"


SCHEMAS = st.recursive(
    st.one_of(
        st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-9, 9)),
        st.builds(lambda low: {"type": "number", "minimum": low}, st.floats(-9, 9)),
        st.builds(lambda high: {"type": "number", "maximum": high}, st.integers(-9, 9)),
        st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 5)),
        st.builds(lambda ones: {"enum": ones}, st.lists(st.text(max_size=3), min_size=1)),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True]),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda items, size: {"type": "array", "items": items, "minItems": size},
            inner,
            st.integers(0, 3),
        ),
        st.builds(lambda ones: {"anyOf": ones}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda known: {
                "type": "object",
                "properties": known,
                "required": sorted(known),
                "additionalProperties": False,
            },
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(SCHEMAS)
def test_minimal_values_conform_by_jsonschema(schema):
    jsonschema = pytest.importorskip("jsonschema")
    text = text_of(StructuredOutput("json", json.dumps(schema)), ["no JSON"])
    jsonschema.validate(json.loads(text), schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(SCHEMAS, JSON)
def test_exactly_the_messages_that_conform_by_jsonschema_are_kept(schema, value):
    jsonschema = pytest.importorskip("jsonschema")
    message = json.dumps(value, indent=1)
    text = text_of(StructuredOutput("json", json.dumps(schema)), [message])
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (json.loads(text) == value) or not valid
    if valid:
        assert text == message


@given(st.text(max_size=40) | st.builds(json.dumps, JSON))
def test_any_schema_is_followed_or_refused(text):
    try:
        json.loads(text_of(StructuredOutput("json", text), []))
    except RequestError as error:
        assert error.subject == "constraint"  # noqa: PT017 - both ends are right


class TestOtherConstraints:
    def said(self, kind: str, value: str | list[str], message: str) -> str:
        options = GenerateOptions(structured=StructuredOutput(kind, value))
        return answer(message, options)

    @pytest.mark.parametrize(
        ("message", "text"),
        [("Hello!", "{}"), ('{"a": 1}', '{"a": 1}'), ("[1]", "{}"), ("5", "{}")],
    )
    def test_a_json_object(self, message, text):
        assert self.said("json_object", "", message) == text

    @pytest.mark.parametrize(("message", "text"), [("b", "b"), ("c", "a"), ("", "a")])
    def test_a_choice(self, message, text):
        assert self.said("choice", ["a", "b"], message) == text

    def test_a_regular_expression_that_the_message_matches(self):
        assert self.said("regex", "[a-z]+ [0-9]", "room 7") == "room 7"
        with pytest.raises(RequestError, match="simulates only a regular expression"):
            self.said("regex", "[a-z]+", "room 7")

    @pytest.mark.parametrize("kind", ["grammar", "structural_tag"])
    def test_an_unsupported_kind_is_refused(self, kind):
        with pytest.raises(RequestError, match=f"does not simulate `{kind}`") as caught:
            self.said(kind, "x", "x")
        assert caught.value.code == "unsupported_parameter"

    @pytest.mark.parametrize(
        "sampling",
        [
            {"min_tokens": 4},
            {"logit_bias": {ord("e"): -100.0}},
            {"logit_bias": {ord("x"): 100.0}},
            {"allowed_token_ids": list(b"yes")},
        ],
    )
    def test_a_parameter_that_forbids_the_output_is_refused(self, sampling):
        options = GenerateOptions(structured=StructuredOutput("choice", ["yes"]))
        with pytest.raises(RequestError, match="another parameter forbids"):
            answer("Hello", options, **sampling)
        assert answer("Hello", options, allowed_token_ids=[*b"yes", END]) == "yes"


class TestRules:
    @pytest.mark.parametrize(
        ("sampling", "bad_words", "text"),
        [
            ({"logit_bias": {ord("l"): -100.0}}, [], "heo"),
            ({"logit_bias": {ord("l"): -99.0, ord("x"): 99.0}}, [], "hello"),
            ({"allowed_token_ids": [*b"eh", END]}, [], "he"),
            ({}, ["l"], "heo"),
            ({}, ["ll"], "helo"),
            ({}, ["ll", "lo"], "hel"),
            ({}, ["x", "hex"], "hello"),
            ({"max_tokens": 3, "logit_bias": {ord("x"): 100.0}}, [], "xxx"),
            ({"max_tokens": 3, "allowed_token_ids": [*b"zy"]}, [], "yyy"),
            ({"max_tokens": 4, "logit_bias": {ord("x"): 100.0}}, ["xx"], "xhxe"),
        ],
    )
    def test_forbidden_tokens_are_left_out_of_the_message(self, sampling, bad_words, text):
        words = [list(word.encode()) for word in bad_words]
        assert answer("hello", GenerateOptions(bad_words=words), **sampling) == text

    @given(st.lists(st.integers(0, 3), max_size=12), st.data())
    def test_a_bad_word_is_never_output(self, reply, data):
        words = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=3))
        rules = Rules(SamplingParams(), words, 4)
        said: list[int] = []
        for token in reply:
            if rules.allows(token, said):
                said.append(token)
        found = {tuple(said[a : a + n]) for n in (1, 2, 3) for a in range(len(said) - n + 1)}
        assert not found & {tuple(word) for word in words}


@given(st.integers(0, 5000), st.integers(0, 299), st.integers(0, 20))
def test_logprobs_are_from_a_distribution(place, token, count):
    told = logprobs_at(place, token, count, 300)
    assert told == logprobs_at(place, token, count, 300)
    ids, logprobs = told.unpack()
    assert len(ids) == len(logprobs) == count + 1
    assert (ids[0], told.rank) == (token, 1)
    top = logprobs[1:]
    assert list(top) == sorted(top, reverse=True)
    assert sum(map(math.exp, top)) <= 1
    assert logprobs[:1] == (top[:1] or logprobs[:1])
    assert all(0 <= one < 300 for one in ids)
