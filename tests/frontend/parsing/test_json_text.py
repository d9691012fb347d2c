"""The end of a value is where a JSON parser finds it, for any cuts of the text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.parsing.json_text import ValueScan

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def scan(text, sizes):
    """Feed pieces of the given sizes, then the rest; return the end of the value and the scan."""
    found, at, scanner = 0, 0, ValueScan()
    for size in [*sizes, len(text)]:
        piece = text[at : at + size]
        at += len(piece)
        found += scanner.feed(piece)
        if scanner.ended:
            break
    return found, scanner


@given(
    value=VALUES,
    ascii_only=st.booleans(),
    indent=st.none() | st.just(1),
    after=st.sampled_from([",", " ", "}", "]", "\n{", ' "']),
    sizes=st.lists(st.integers(1, 5)),
)
def test_end_is_where_a_json_parser_finds_it(value, ascii_only, indent, after, sizes):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    end, scanner = scan(text + after, sizes)
    assert (end, scanner.ended, scanner.broken) == (len(text), True, False)


@given(value=VALUES, sizes=st.lists(st.integers(1, 5)), data=st.data())
def test_an_incomplete_value_has_no_end(value, sizes, data):
    text = json.dumps([value])
    part = text[: data.draw(st.integers(0, len(text) - 1))]
    end, scanner = scan(part, sizes)
    assert (end, scanner.ended) == (len(part), False)


@pytest.mark.parametrize(
    ("text", "end"), [("[}", 1), ('{"a": [1}', 8), ("]", 0), (",", 0), (" 1", 0), (":", 0)]
)
def test_an_impossible_character_breaks_the_value(text, end):
    for sizes in ([], [1] * 20):
        found, scanner = scan(text, sizes)
        assert (found, scanner.ended, scanner.broken) == (end, True, True)
