"""Policies of fields, and the names of fields in errors."""

from typing import Annotated, Any

import msgspec
import pytest

from vgate.errors import OverloadedError, RequestTimeoutError, UnsupportedParameterError
from vgate.frontend.apis.fields import (
    ACCEPTED,
    FieldMap,
    FieldPolicies,
    ignored,
    policies_of,
    refused,
)
from vgate.frontend.http import Ignored


class Several(msgspec.Struct):
    plain: int | None = None
    label: Annotated[str | None, ACCEPTED] = None
    count: Annotated[Any, refused(1, 0, instead="use `plain`")] = None
    async_: Annotated[Any, refused(False)] = msgspec.field(default=None, name="async")


class One(msgspec.Struct):
    only: Annotated[Any, refused([])] = None


def test_policies_use_json_names():
    kinds = {name: policy.kind for name, policy in policies_of(Several).items()}
    assert kinds == {"plain": "served", "label": "accepted", "count": "refused", "async": "refused"}


@pytest.mark.parametrize(
    "fields", [{}, {"label": "x"}, {"count": 1}, {"count": 0, "async_": False}]
)
def test_neutral_values_pass(fields):
    FieldPolicies(Several).check(Several(**fields), Ignored())


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"count": 2}, "a[3].count"),
        # As in JSON, true is not 1 and 0 is not false.
        ({"count": True}, "a[3].count"),
        ({"count": 1, "async_": 0}, "a[3].async"),
    ],
)
def test_other_values_are_refused(fields, path):
    with pytest.raises(UnsupportedParameterError) as caught:
        FieldPolicies(Several).check(Several(**fields), Ignored(), "a[3].")
    assert caught.value.param == path
    assert ("use `plain`" in caught.value.message) == ("count" in path)


def test_a_struct_with_one_refused_field():
    check = FieldPolicies(One).check
    check(One(), Ignored())
    check(One([]), Ignored())
    with pytest.raises(UnsupportedParameterError, match="`only`"):
        check(One([1]), Ignored())


class Told(msgspec.Struct):
    style: Annotated[str | None, ignored("medium")] = None
    budget: Annotated[Any, ignored()] = None


def test_ignored_fields_are_noted_unless_they_are_neutral():
    ignored = Ignored()
    FieldPolicies(Told).check(Told(style="medium"), ignored)
    assert ignored.names == []
    FieldPolicies(Told).check(Told(style="low", budget=0), ignored, "a[3].")
    assert ignored.names == ["a[].style", "a[].budget"]


class TestNames:
    fields = FieldMap({"a": "x", "a.b[].c": "y[].z", "d[]": "d", "e[].f[]": "e[].g[]"})

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("a", "x"),
            ("a.b", "x.b"),
            ("a.b[12].c.d[1]", "y[12].z.d[1]"),
            ("ab", "ab"),
            ("d[4].e", "d.e"),
            ("e[1].f[2].h", "e[1].g[2].h"),
            ("other[0]", "other[0]"),
        ],
    )
    def test_paths(self, path, expected):
        assert self.fields.name(path) == expected

    def test_a_translated_error_keeps_its_type(self):
        error = self.fields.translate(
            RequestTimeoutError("`a.b[0].c` and `A` and a", param="a", retry_after_s=2.0)
        )
        assert type(error) is RequestTimeoutError
        assert (error.message, error.param) == ("`y[0].z` and `A` and a", "x")
        assert error.retry_after_s == 2.0

    def test_errors_that_are_not_about_the_request_are_unchanged(self):
        with pytest.raises(OverloadedError, match="`a`"), self.fields.translating():
            raise OverloadedError("`a`")
