"""What a client is told of its limits: headers, and errors."""

import math
import time

from vgate.errors import LimitsUnavailableError, RateLimitedError
from vgate.frontend.access.limiter import Decision
from vgate.frontend.access.limiter.port import LimiterAwayError
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey
from vgate.log import Log

_REASONS = {
    "requests": "too many requests",
    "tokens": "too many tokens",
    "concurrent": "too many requests at once",
}
_RETRY_AFTER_S = 5.0

log = Log("vgate.frontend")


def add_headers(headers: dict[str, str], decision: Decision) -> None:
    """Report the limits in headers: with the earlier V-Gate's names, and OpenAI's."""
    now = time.time()
    if quota := decision.requests:
        headers["x-ratelimit-limit"] = limit = str(quota.limit)
        headers["x-ratelimit-remaining"] = remaining = str(quota.remaining)
        headers["x-ratelimit-reset"] = str(math.ceil(quota.reset_at))
        headers["x-ratelimit-limit-requests"] = limit
        headers["x-ratelimit-remaining-requests"] = remaining
        headers["x-ratelimit-reset-requests"] = f"{max(0.0, quota.reset_at - now):.3f}s"
    if quota := decision.tokens:
        headers["x-ratelimit-limit-tokens"] = str(quota.limit)
        headers["x-ratelimit-remaining-tokens"] = str(quota.remaining)
        headers["x-ratelimit-reset-tokens"] = f"{max(0.0, quota.reset_at - now):.3f}s"


def refusal(key: ApiKey, decision: Decision) -> RateLimitedError:
    """Count a request that a limit refuses, and return the error."""
    reason = decision.reason or "requests"
    metrics.RATE_LIMITED.labels(key.name, reason).inc()
    if decision.never and decision.tokens:
        message = (
            "the request may use more tokens than this API key is allowed in a minute, "
            f"{decision.tokens.limit}: send a shorter prompt, or allow fewer tokens for the answer"
        )
    else:
        limit = _REASONS[reason]
        message = f"{limit} for this API key; try again in {decision.retry_after_s or 1:.0f} s"
    return RateLimitedError(message, retry_after_s=decision.retry_after_s)


def unavailable(error: OSError) -> LimitsUnavailableError:
    """Report a limiter that failed, if it didn't itself, and return the error."""
    retry_after_s = _RETRY_AFTER_S
    if isinstance(error, LimiterAwayError):
        retry_after_s = error.retry_after_s
    else:
        log.error("a request could not be counted", reason=error)
    return LimitsUnavailableError(
        "the limits of this API key can't be checked now", retry_after_s=retry_after_s
    )
