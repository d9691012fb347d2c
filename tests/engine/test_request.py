"""A request's task and its bounds."""

from __future__ import annotations

import pytest

from vgate.engine.request import Request
from vgate.wire.sampling import SamplingParams


@pytest.mark.parametrize(("given_", "expected"), [(7, 7), (None, 1)])
def test_max_tokens(given_, expected):
    assert Request("1", [1], SamplingParams(max_tokens=given_)).max_tokens == expected


def test_without_sampling_it_is_an_embedding():
    request = Request("1", [1], None)
    assert (request.task, request.max_tokens) == ("embed", 0)
    assert Request("1", [1], SamplingParams()).task == "generate"
