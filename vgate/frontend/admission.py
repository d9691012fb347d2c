"""What an API key has granted to one request."""

from __future__ import annotations

from vgate.frontend.limits import Decision, Limiter, Ticket
from vgate.keys import ApiKey


class Admission:
    """What a request has been granted; lives as long as the request."""

    __slots__ = ("_limiter", "_ticket", "key")

    def __init__(self, limiter: Limiter, key: ApiKey, ticket: Ticket) -> None:
        self._limiter = limiter
        self._ticket = ticket
        self.key = key

    def reserve_tokens(self, tokens: int) -> Decision:
        """Reserve what the request may use at most."""
        return self._limiter.reserve_tokens(self._ticket, tokens)

    def settle(self, used_tokens: int) -> None:
        """Give back what was reserved and not used."""
        self._limiter.settle(self._ticket, used_tokens)

    def withdraw(self) -> None:
        """Make it as if the request had not been made."""
        self._limiter.withdraw(self._ticket)

    def release(self) -> None:
        """End the request."""
        self._limiter.release(self._ticket)
