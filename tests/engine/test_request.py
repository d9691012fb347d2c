"""A request's name and its counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.engine.request import Request, request_key
from vgate.wire.sampling import SamplingParams

ids = st.tuples(st.binary(max_size=8), st.integers(0, 2**63 - 1))


@given(ids, ids)
def test_no_two_requests_share_a_key(first, second):
    assert (request_key(*first) == request_key(*second)) == (first == second)


@pytest.mark.parametrize(("given_", "expected"), [(7, 7), (None, 1)])
def test_max_tokens(given_, expected):
    assert Request(b"p", 1, [1], SamplingParams(max_tokens=given_)).max_tokens == expected


def test_kv_tokens_grow_with_the_answer():
    request = Request(b"p", 1, [1, 2, 3], SamplingParams())
    assert request.kv_tokens == 3
    request.generated_tokens = 4
    assert request.kv_tokens == 7
