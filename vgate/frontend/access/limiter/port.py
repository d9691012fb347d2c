"""What every limiter promises, whatever keeps its counts.

Limits are exact, and all workers share the counts:

- *Requests*: at most ``requests`` in any ``window_s``. The window slides.
- *Tokens*: at most ``tokens_per_minute`` in any 60 s. A request first counts with the most tokens
  that it may use, and once it has ended with those that it used.
- *Concurrency*: at most ``concurrent`` requests at a time.

A request that a limit refuses counts against none. Limits are passed with every reservation, so a
changed limit applies to the next request and what was counted before stays.

An implementation may keep its counts on another host. Its methods raise `OSError` if it can't reach
them; a grant whose `Grant.settle` failed must end by itself, at the latest with its worker.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Reason = Literal["requests", "tokens", "concurrent"]

NS = 1_000_000_000
TOKEN_WINDOW_NS = 60 * NS


class KeyLimits(msgspec.Struct, frozen=True):
    """The limits of one key; None is no limit."""

    requests: int | None = None
    window_s: float = 60.0
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @property
    def window_ns(self) -> int:
        """The request window."""
        return max(1, round(self.window_s * NS))

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return self.requests is None and self.tokens_per_minute is None and self.concurrent is None


class Quota(msgspec.Struct, frozen=True):
    """The state of one limit.

    Attributes:
        limit: What is allowed in a window.
        remaining: What is left of it.
        reset_at: Unix time at which the oldest entry leaves the window.
    """

    limit: int
    remaining: int
    reset_at: float


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may continue, and the state of the limits after that was decided.

    Attributes:
        reason: The first limit that refuses the request; None if it is allowed.
        retry_after_s: Seconds until all limits would allow it, if no other request came.
        never: The request asks for more than a whole limit, so waiting does not help.
        requests: State of the request limit, if there is one.
        tokens: State of the token limit, if there is one.
    """

    reason: Reason | None = None
    retry_after_s: float | None = None
    never: bool = False
    requests: Quota | None = None
    tokens: Quota | None = None

    @property
    def allowed(self) -> bool:
        """Whether no limit refuses the request."""
        return self.reason is None


class Usage(msgspec.Struct, frozen=True):
    """What a key uses now, over all workers."""

    requests: int
    tokens: int
    concurrent: int


class Grant(Protocol):
    """What one request holds of its key's limits, until it is settled or abandoned.

    Both can be called at any time and more than once; only the first call of either has an effect.
    A grant that was refused holds nothing.

    Attributes:
        decision: The latest decision.
    """

    decision: Decision

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens for a request that was counted without. If refused, it is abandoned.

        The first call counts; after it the tokens are reserved.
        """

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request. Its tokens are `used_tokens`; None keeps those that were reserved."""

    async def abandon(self) -> None:
        """End the request as if it had not been made."""


class Limiter(Protocol):
    """One worker's access to the counts of all keys."""

    def likely_full(self, key_id: str, limits: KeyLimits) -> bool:
        """Guess whether a request would be refused even without tokens.

        The guess costs no round trip; a limiter that knows nothing returns False. Use it to choose
        when to call `reserve`, never instead.
        """

    async def reserve(
        self, key_id: str, limits: KeyLimits, tokens: int = 0, *, runs: bool = True
    ) -> Grant:
        """Count a request against all of its key's limits, or against none if one refuses it.

        Args:
            key_id: Whose limits: any text, the same in all workers.
            limits: The limits that apply.
            tokens: The most tokens that the request may use. With 0 the token limit does not
                refuse it, and `Grant.reserve` may follow.
            runs: Whether the request runs until its grant ends. Pass False if it has been answered.
        """

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        """Return what a key uses now."""

    def close(self) -> None:
        """Release what is held. Called once, when the process ends and its loop has stopped."""
