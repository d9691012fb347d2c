"""How many tokens a request may generate."""

import pytest

from vgate.engine.request import Request
from vgate.wire.sampling import SamplingParams


@pytest.mark.parametrize(("given_", "expected"), [(7, 7), (None, 1)])
def test_max_tokens(given_, expected):
    assert Request("1", [1], SamplingParams(max_tokens=given_)).max_tokens == expected


def test_an_embedding_generates_none():
    assert Request("1", [1], None).max_tokens == 0
