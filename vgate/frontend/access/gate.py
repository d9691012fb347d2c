"""Who may use the server, and how much: keys and limits, for one frontend process."""

from __future__ import annotations

from typing import Any

from vgate.config.schema import Security
from vgate.frontend.access.admission import Admission, key_id
from vgate.frontend.access.authentication import Authentication
from vgate.frontend.access.limiter.port import KeyLimits, Limiter
from vgate.frontend.http.request import HttpRequest
from vgate.keys import ApiKey

# The key of requests that need none.
NOBODY = ApiKey(name="", sha256="")
_NO_LIMITS = KeyLimits()


class Access:
    """Lets requests in: finds their keys, and the limits of those.

    Args:
        security: The configuration's section.
        authentication: Finds keys; None lets every request in.
        limiter: Counts what keys use.
    """

    def __init__(
        self, security: Security, authentication: Authentication | None, limiter: Limiter
    ) -> None:
        self._limiting = security.rate_limiting
        self._exempt = frozenset(security.exempt_paths)
        self._authentication = authentication
        self._limiter = limiter

    def admission(self, http: HttpRequest) -> Admission:
        """Return a request's admission; nothing is counted yet.

        Its key has no name if the path or the server is open to all.

        Raises:
            AuthenticationError: The request carries no valid key.
        """
        if self._authentication is None or http.path in self._exempt:
            return Admission(self._limiter, NOBODY, _NO_LIMITS, http.response_headers)
        key = self._authentication.key_of(http)
        return Admission(self._limiter, key, self._limits_of(key), http.response_headers)

    async def usage(self) -> list[dict[str, Any]]:
        """Return what each key uses of its limits, over all workers."""
        if self._authentication is None:
            return []
        return [await self._usage_of(key) for key in self._authentication.keys]

    def close(self) -> None:
        """Stop following keys and release the counts."""
        if self._authentication is not None:
            self._authentication.close()
        self._limiter.close()

    async def _usage_of(self, key: ApiKey) -> dict[str, Any]:
        limits = self._limits_of(key)
        used = await self._limiter.usage(key_id(key), limits)
        return {
            "key": key.name,
            "requests": used.requests,
            "rate_limit": limits.requests,
            "window_s": limits.window_s,
            "tokens": used.tokens,
            "tokens_per_minute": limits.tokens_per_minute,
            "concurrent": used.concurrent,
            "concurrent_limit": limits.concurrent,
        }

    def _limits_of(self, key: ApiKey) -> KeyLimits:
        limiting = self._limiting
        if not limiting.enabled:
            return _NO_LIMITS
        return KeyLimits(
            requests=key.rate_limit or limiting.default_limit,
            window_s=limiting.window_seconds,
            tokens_per_minute=key.tokens_per_minute or limiting.default_tokens_per_minute,
            concurrent=key.concurrent or limiting.default_concurrent,
        )
