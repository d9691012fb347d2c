"""What a client is told that a limit refuses."""

import pytest

from vgate.frontend.access.limiter import Decision
from vgate.frontend.access.limiter.port import Quota
from vgate.frontend.access.refusals import refusal
from vgate.keys import ApiKey

NEVER = (
    "the request may use more tokens than this API key is allowed in a minute, 100: send a shorter "
    "prompt, or allow fewer tokens for the answer"
)
KEY = ApiKey(name="key", sha256="0" * 64)


@pytest.mark.parametrize(
    ("decision", "told", "retry_after_s"),
    [
        (Decision("requests", 12.0), "too many requests for this API key; try again in 12 s", 12.0),
        (Decision("tokens", 3.0), "too many tokens for this API key; try again in 3 s", 3.0),
        (
            Decision("tokens", never=True, tokens=Quota(100, 90, 0.0)),
            NEVER,
            None,
        ),
    ],
)
def test_it_says_which_limit_and_what_helps(decision, told, retry_after_s):
    error = refusal(KEY, decision)
    assert (str(error), error.retry_after_s) == (told, retry_after_s)
