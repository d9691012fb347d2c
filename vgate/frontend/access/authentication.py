"""Whose request it is: the API key that it carries, and following the key file."""

from __future__ import annotations

import asyncio

from vgate.errors import AuthenticationError
from vgate.frontend.access.keys import KeySource
from vgate.frontend.http.request import HttpRequest
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey, KeysError
from vgate.log import Log

_POLL_S = 0.25
_SCHEME = "bearer "

log = Log("vgate.frontend")


class Authentication:
    """Finds the key of each request, among keys that may change under way.

    Args:
        loop: The event loop.
        source: Where the keys come from.

    Attributes:
        keys: The keys in force.

    Raises:
        KeysError: There are no keys that can be used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, source: KeySource) -> None:
        self._loop = loop
        self._source = source
        self.keys = source.first()
        self._make_series()
        self._poll: asyncio.TimerHandle | None = None
        if source.changes:
            self._poll = loop.call_later(_POLL_S, self._reload)

    def key_of(self, http: HttpRequest) -> ApiKey:
        """Return the key that a request carries.

        Raises:
            AuthenticationError: It carries none, or one that is not valid.
        """
        key = self.keys.find(_secret(http))
        if key is None:
            message = "the API key is not valid"
            raise AuthenticationError(message)
        return key

    def close(self) -> None:
        """Stop following the key file."""
        if self._poll is not None:
            self._poll.cancel()

    def _reload(self) -> None:
        """Take a changed key file; if it is broken or gone the old keys stay."""
        self._poll = self._loop.call_later(_POLL_S, self._reload)
        if not self._source.changed():
            return
        try:
            self.keys = self._source.read()
        except KeysError as error:
            log.error("key file is invalid; keeping the current keys", reason=error)
        else:
            self._make_series()
            log.info("keys reloaded", keys=len(self.keys))

    def _make_series(self) -> None:
        for key in self.keys:
            metrics.show_zeros_of_key(key.name)


def _secret(http: HttpRequest) -> str:
    """Return the API key that a request carries; Anthropic's clients have a header for it.

    Raises:
        AuthenticationError: It carries none.
    """
    header = http.header("authorization")
    if header is None:
        secret = http.header("x-api-key")
        if secret is None:
            message = "an API key is required: send `Authorization: Bearer KEY` or `x-api-key: KEY`"
            raise AuthenticationError(message)
        return secret.strip()
    if header[: len(_SCHEME)].lower() != _SCHEME:
        message = "the Authorization header must be `Bearer KEY`"
        raise AuthenticationError(message)
    return header[len(_SCHEME) :].strip()
