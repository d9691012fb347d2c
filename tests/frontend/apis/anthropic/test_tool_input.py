"""A client gets a JSON object for arguments, whatever the model wrote."""

import json

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.apis.anthropic.messages.response import INVALID_KEY, tool_input

characters = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | characters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(characters, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(characters, values, max_size=5)


def input_of(arguments: str) -> object:
    return json.loads(bytes(tool_input(arguments)))


@given(value=objects, indent=st.none() | st.integers(0, 2), ascii_=st.booleans())
def test_an_object_is_passed_on_unchanged(value, indent, ascii_):
    arguments = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    assert bytes(tool_input(arguments)) == arguments.encode()


@given(value=objects, indent=st.none() | st.integers(0, 2), data=st.data())
def test_a_truncated_object_is_parsed_as_in_the_client_library(value, indent, data):
    arguments = json.dumps(value, indent=indent, ensure_ascii=False)
    cut = arguments[: data.draw(st.integers(1, len(arguments)))]
    assert input_of(cut) == jiter.from_json(cut.encode(), partial_mode=True)


@pytest.mark.parametrize("arguments", ["", " ", "\n"])
def test_no_arguments(arguments):
    assert input_of(arguments) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        "[]",
        "1",
        "null",
        '"x"',
        "x",
        "}",
        "[1",
        "{'a': 1}",
        "{'a': 1",
        '{"a": 1}}',
        '{"a": 1} and so on',
        '{"a": 1]',
        '{"a" 1, "b',
        '{"a": NaN}',
        '{"a": "line\nbreak"}',
        '{"a":' * 3000,
    ],
)
def test_other_text_is_wrapped_in_an_object(arguments):
    assert input_of(arguments) == {INVALID_KEY: arguments}


@given(arguments=st.text(st.sampled_from('{}[]",:\\ 1-.eatru'), max_size=30))
def test_any_text_becomes_an_object(arguments):
    assert isinstance(input_of(arguments), dict)
