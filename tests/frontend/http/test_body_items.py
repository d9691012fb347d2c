"""Values are counted as a decoder would make them, wherever a body is cut for counting."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.neighbour.fields import items_of
from vgate.errors import PayloadTooLargeError
from vgate.frontend.http import body_items, counted

DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.sampled_from('a"\\,{[:]}é\n'), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\'), inner, max_size=4),
    max_leaves=20,
)


@given(document=DOCUMENTS, size=st.integers(1, 9), spaces=st.booleans())
def test_items_are_counted(document, size, spaces):
    text = json.dumps(document, ensure_ascii=False, indent=1 if spaces else None).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_items, "_SLICE_BYTES", size)
        *_, (items, _values) = counted(text)
    assert items == items_of(document)


def test_numbers_are_counted():
    assert list(counted(b'{"a": [1, 2, true, null], "b": 5}')) == [(6, 6)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": [""] * 2000, "model": "m"}, "input"),
        ({"model": "m", "messages": [{}] * 2000, "input": [1] * 9}, "messages"),
        ({"prompt": [1] * 6000}, "prompt"),
        ([[]] * 2000, None),
        ({"unknown": [""] * 2000}, None),
    ],
)
def test_the_field_and_the_limit_are_named(body, field):
    with pytest.raises(PayloadTooLargeError, match=r"1024 objects.*\(server.max_items\)") as error:
        body_items.check_items(json.dumps(body).encode(), 1024)
    assert error.value.param == field


def test_what_fits_passes():
    for body in (["x"] * 1000, [1] * 5000, "[" * 100_000):
        body_items.check_items(json.dumps(body).encode(), 1024)
