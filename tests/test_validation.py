"""Explaining msgspec's errors: a path, a value and what is allowed."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from vgate import validation
from vgate.validation import explain


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: Annotated[int, Meta(ge=1, le=9)] = 1
    name: str = ""
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    share: float | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True):
    needed: str
    inner: Inner = Inner()
    items: list[Inner] = []
    table: dict[str, int] = {}
    numbered: dict[Annotated[int, Meta(ge=0)], int] = {}


def problem_with(document: Any):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Document)
    return explain(caught.value, document)


@pytest.mark.parametrize(
    ("document", "path", "kind", "text"),
    [
        ({}, "needed", "missing", "`needed` is required"),
        ({"needed": "", "x": 1}, "x", "unknown", "`x` is not a known field"),
        (
            {"needed": "", "inner": {"prot": 1}},
            "inner.prot",
            "unknown",
            "`inner.prot` is not a known field",
        ),
        ({"needed": 5}, "needed", "value", "`needed` must be a string, got 5"),
        (
            {"needed": "", "inner": {"port": 10}},
            "inner.port",
            "value",
            "`inner.port` must be an integer <= 9, got 10",
        ),
        (
            {"needed": "", "items": [{}, {"name": None}]},
            "items[1].name",
            "value",
            "`items[1].name` must be a string, got null",
        ),
        (
            {"needed": "", "inner": {"flag": "yes"}},
            "inner.flag",
            "value",
            '`inner.flag` must be true or false, got "yes"',
        ),
        (
            {"needed": "", "inner": {"share": "x"}},
            "inner.share",
            "value",
            '`inner.share` must be a number or null, got "x"',
        ),
        ({"needed": "", "items": {}}, "items", "value", "`items` must be a list, got {}"),
        ({"needed": "", "inner": []}, "inner", "value", "`inner` must be an object, got []"),
        ([], "", "value", "the document must be an object, got []"),
    ],
)
def test_a_problem_is_one_sentence(document, path, kind, text):
    problem = problem_with(document)
    assert (problem.path, problem.kind) == (path, kind)
    assert str(problem) == text


def test_an_invalid_choice_is_shown():
    text = str(problem_with({"needed": "", "inner": {"kind": "z"}}))
    assert text.startswith("`inner.kind` must be valid")
    assert '"z"' in text


def test_a_value_in_a_map_is_explained_without_its_name():
    # msgspec doesn't name the key, so neither the path nor the value can be exact.
    problem = problem_with({"needed": "", "table": {"k": "x"}})
    assert problem.path == "table[...]"
    assert problem.sent is None


def test_a_long_value_is_shortened():
    assert len(str(problem_with({"needed": list(range(1000))}))) < 200


def test_without_the_document_no_value_is_shown():
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"needed": 5}, Document)
    assert str(explain(caught.value)) == "`needed` must be a string"


def test_a_key_that_is_not_text_is_reported():
    assert "key" in str(problem_with({"needed": "", 5: 6}))


@pytest.mark.parametrize("key", ["x", "-1"])
def test_an_invalid_key_is_reported_for_its_object(key):
    document = {"needed": "", "numbered": {key: 1}}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Document, str_keys=True)
    problem = explain(caught.value, document)
    assert (problem.path, problem.kind) == ("numbered", "value")
    assert str(problem).startswith("`numbered` must be an object whose keys are each an integer")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["needed", "inner", "items", "table"]) | st.text(), json_values, max_size=4
    )
)
def test_any_invalid_document_is_explained(document):
    try:
        msgspec.convert(document, Document)
    except msgspec.ValidationError as error:
        assert str(explain(error, document))  # noqa: PT017 - a valid document is right too


class TestChoices:
    @pytest.mark.parametrize(
        ("document", "expected"),
        [
            ({"side": "up"}, "`side` must be 'left' or 'right', got \"up\""),
            ({"inner": [{"side": "up"}]}, "`inner[0].side` must be 'left' or 'right', got \"up\""),
            ({"mode": "b"}, "`mode` must be an integer or 'a', got \"b\""),
            ({"side": False}, "`side` must be 'left' or 'right', got false"),
        ],
    )
    def test_the_texts_that_are_allowed_are_named(self, document, expected):
        side = Literal["left", "right"]
        inner = msgspec.defstruct("Inner", [("side", side)])
        fields = [("side", side | None, None), ("inner", list[inner] | None, None)]
        request = msgspec.defstruct("Request", [*fields, ("mode", Literal["a"] | int, 0)])
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert(document, request)
        assert str(explain(caught.value, document, request)) == expected

    def test_only_structs_on_the_way_to_the_value_are_looked_at(self, monkeypatch):
        seen = []

        def fields_of(struct):
            seen.append(struct.__name__)
            return msgspec.structs.fields(struct)

        monkeypatch.setattr(validation, "_fields_of", fields_of)
        large = msgspec.defstruct("Large", [("other", Inner)])
        inner = msgspec.defstruct(
            "Near", [("side", Literal["left"]), ("large", large | None, None)]
        )
        request = msgspec.defstruct("Request", [("inner", inner), ("large", large | None, None)])
        document = {"inner": {"side": "up"}}
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert(document, request)
        assert explain(caught.value, document, request).choices == ("left",)
        assert seen == ["Request", "Near"]
