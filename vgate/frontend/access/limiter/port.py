"""What every limiter guarantees, wherever it keeps its counts.

Limits are exact, and all workers share the counts: at most ``requests`` in any ``window_s``, at
most ``tokens_per_minute`` in any 60 s, and at most ``concurrent`` requests at a time.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from vgate.frontend.access.budget import Budget

Reason = Literal["requests", "tokens", "concurrent", "budget"]

NS = 1_000_000_000
TOKEN_WINDOW_NS = 60 * NS


class LimiterAwayError(OSError):
    """The counts can't be reached, which the limiter has reported.

    Attributes:
        retry_after_s: When to try again.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class KeyLimits(msgspec.Struct, frozen=True, dict=True):
    """The limits of one key; None is no limit.

    Its budget is among them only for a limiter that `holds_budgets`.
    """

    requests: int | None = None
    window_s: float = 60.0
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    budget: "Budget | None" = None

    @cached_property
    def window_ns(self) -> int:
        """The request window."""
        return max(1, round(self.window_s * NS))

    @cached_property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        limits = self.requests, self.tokens_per_minute, self.concurrent, self.budget
        return all(limit is None for limit in limits)


class Quota(msgspec.Struct, frozen=True):
    """What one limit allows in a window and what remains of it.

    Attributes:
        reset_at: Unix time at which the oldest entry leaves the window.
    """

    limit: int
    remaining: int
    reset_at: float


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may continue, and the state of the limits after the decision.

    Attributes:
        reason: The first limit that refuses the request; None if it is allowed.
        retry_after_s: Seconds until all limits would allow it, if no other request came.
        never: The request needs more tokens than the whole limit, so waiting does not help.
        budget_left: What is left of the budget that refuses.
    """

    reason: Reason | None = None
    retry_after_s: float | None = None
    never: bool = False
    requests: Quota | None = None
    tokens: Quota | None = None
    budget_left: int = 0

    @property
    def allowed(self) -> bool:
        """Whether no limit refuses the request."""
        return self.reason is None


class Usage(msgspec.Struct, frozen=True):
    """What a key uses at a moment, over all workers; of its budget if the limiter holds that."""

    requests: int
    tokens: int
    concurrent: int
    budget: int | None = None


class Grant(Protocol):
    """What one request holds of its key's limits, until it is settled or abandoned.

    Both can be called at any time and more than once; only the first call of either has an effect.
    A refused grant holds nothing.
    """

    decision: Decision  # the latest

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens, once, for a request that was counted without; abandon it if refused."""

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request. Its tokens are `used_tokens`; None keeps the reserved ones.

        If this raises `OSError`, the grant must end by itself, at the latest with its worker.
        """

    async def abandon(self) -> None:
        """End the request as if it had not been made."""


class Limiter(Protocol):
    """One worker's access to the counts of all keys.

    Limits are passed with every reservation, so a changed limit applies to the next request. The
    counts may be on another host: every method raises `OSError` if it can't reach them.

    Attributes:
        holds_budgets: Whether it holds budgets, too: those of all gateways together.
    """

    holds_budgets: bool

    def likely_full(self, key_id: str, limits: KeyLimits) -> bool:
        """Guess whether a request would be refused even without tokens.

        The guess needs no round trip, and never replaces `reserve`.
        """

    async def reserve(
        self, key_id: str, limits: KeyLimits, tokens: int = 0, *, runs: bool = True
    ) -> Grant:
        """Count a request against all of its key's limits, or against none if one refuses it.

        Args:
            key_id: Any text, the same in all workers.
            limits: The limits of that key.
            tokens: The most tokens that the request may use. With 0 the token limit does not
                refuse it, and `Grant.reserve` may follow.
            runs: Whether the request runs until its grant ends. Pass False if it has been answered.
        """

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        """Return what a key uses now."""

    def close(self) -> None:
        """Release all resources. Called once, at process exit, after the loop has stopped."""
