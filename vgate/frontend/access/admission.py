"""Access for all requests of a process, and the admission of one: its key and its limits."""

import asyncio
from pathlib import Path
from typing import Any, Self

import msgspec

from vgate.config.schema import Security
from vgate.errors import ForbiddenError, RateLimitedError
from vgate.frontend.access.authentication import Authentication, KeySource
from vgate.frontend.access.budget import Budget
from vgate.frontend.access.limiter import Grant, KeyLimits, Limiter
from vgate.frontend.access.meter import Meter
from vgate.frontend.access.refusals import add_headers, refusal, unavailable
from vgate.frontend.http import ClientDisconnected, HttpRequest
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey, KeyRing
from vgate.log import Log
from vgate.usage import Used

_NO_LIMITS = KeyLimits()

# Stands for the client where no key is required.
NOBODY = ApiKey(name="", sha256="")
_EVERYBODY = ApiKey(name="", sha256="", admin=True)

log = Log("vgate.frontend")


class Access:
    """Finds the key of each request, and the limits of that key.

    Args:
        security: The configuration's section. If it is not enabled, every request is let in.
        kept_keys: The file of the last valid keys.
        limiter: Counts what keys use of their limits; closed with this.
        meter: Counts what they use for the ledger, and of their budgets; closed with this.
        isolate_keys: Whether what is cached is shared only within a key or a group of keys.
        is_local: Whether only this machine's programs can connect.

    Attributes:
        limits: The limits of the keys in force, by their names.

    Raises:
        KeysError: There are no valid keys.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        security: Security,
        kept_keys: Path,
        limiter: Limiter,
        meter: Meter,
        *,
        isolate_keys: bool = True,
        is_local: bool = True,
    ) -> None:
        self._is_local = is_local
        self._limiting = security.rate_limiting
        self._exempt = frozenset(security.exempt_paths)
        self._limiter = limiter
        self.meter = meter
        self._isolates = security.enabled and isolate_keys
        self.limits: dict[str, KeyLimits] = {}
        self._authentication: Authentication | None = None
        if security.enabled:
            source = KeySource(security, kept_keys)
            self._authentication = Authentication(loop, source, self._on_keys)

    def admission(
        self, http: HttpRequest, *, public: bool = False, generates: bool = True
    ) -> "Admission":
        """Return a request's admission; nothing is counted yet.

        Its key has no name if the path or the server is open to all. An admin's requests have no
        limits where they generate nothing: people watch a server with such a key.

        Raises:
            AuthenticationError: The request carries no valid key.
        """
        if public or self._authentication is None or http.path in self._exempt:
            key, limits = NOBODY, _NO_LIMITS
        else:
            key = self._authentication.key_of(http)
            limits = _NO_LIMITS if key.admin and not generates else self.limits[key.name]
        scope = _scope_of(key) if self._isolates else ""
        return Admission(
            self._limiter,
            self.meter,
            key,
            limits,
            http.response_headers,
            scope,
            is_metered=generates,
        )

    def sees_all(self, http: HttpRequest) -> bool:
        """Whether a request may be told of all keys: it has an admin's, or there are none."""
        key = self.visitor(http)
        return key is not None and key.admin

    def visitor(self, http: HttpRequest) -> ApiKey | None:
        """Return whom an answer is for, on an exempt path as well; None for one without a key."""
        return _EVERYBODY if self._authentication is None else self._authentication.find(http)

    def check_admin(self, http: HttpRequest, admission: "Admission") -> None:
        """Let an admin's request pass, and any where no keys are required and all are local.

        Raises:
            ForbiddenError: It is somebody else's.
        """
        if self._authentication is not None:
            if not admission.key.admin:
                raise ForbiddenError(
                    "this needs an admin's API key: one with `admin: true`, as made by "
                    "`vgate keys add NAME --admin`"
                )
        elif not self._is_local or http.header("x-forwarded-for") or http.header("forwarded"):
            # A proxy on this machine brings everybody here.
            raise ForbiddenError(
                "without API keys this is open only to direct requests to a local server: set "
                "security.enabled and use a key with `admin: true`"
            )

    async def usage(self, http: HttpRequest) -> list[dict[str, Any]]:
        """Return what each key that a request may be told of uses of its limits, in all workers.

        What can't be read of a budget is None.
        """
        found = []
        every, limits_of = self.sees_all(http), self.limits
        for key in self._authentication.keys if self._authentication else ():
            if not every and key.name != http.admission.key.name:
                continue
            await asyncio.sleep(0)  # each takes a millisecond if the ledger is read for it
            limits = limits_of[key.name]
            used = await self._limiter.usage(key.name, limits)
            budget = self.meter.budget_of(key.name)
            found.append(
                {
                    "key": key.name,
                    "requests": used.requests,
                    "rate_limit": limits.requests,
                    "window_s": limits.window_s,
                    "tokens": used.tokens,
                    "tokens_per_minute": limits.tokens_per_minute,
                    "concurrent": used.concurrent,
                    "concurrent_limit": limits.concurrent,
                    "budget_used": budget and (used.budget or budget[1]),
                    "budget_tokens": budget and budget[0].tokens,
                    "budget_period": budget and budget[0].period,
                }
            )
        return found

    def close(self) -> None:
        """Stop following keys and release the counts."""
        if self._authentication is not None:
            self._authentication.close()
        self._limiter.close()
        self.meter.close()

    def _on_keys(self, keys: KeyRing) -> None:
        self.limits = {key.name: self._limits_of(key) for key in keys}
        self.meter.on_keys(keys)
        for name in self.limits:
            metrics.show_zeros_of_key(name)

    def _limits_of(self, key: ApiKey) -> KeyLimits:
        limiting = self._limiting
        budget = Budget.of(key) if self._limiter.holds_budgets else None
        if not limiting.enabled:
            return _NO_LIMITS if budget is None else KeyLimits(budget=budget)
        return KeyLimits(
            requests=key.rate_limit or limiting.default_limit,
            window_s=limiting.window_seconds,
            tokens_per_minute=key.tokens_per_minute or limiting.default_tokens_per_minute,
            concurrent=key.concurrent or limiting.default_concurrent,
            budget=budget,
        )


class Admission(msgspec.Struct):
    """One request and the limits of its key: ``async with`` it for as long as the request runs.

    Each decision is a critical section that all workers share, so there is only one where possible:
    as soon as the tokens are known, or at the end of a request that used none. Leaving settles what
    was granted. `begin`, `reserve` and `count` decide.

    Attributes:
        key: The key that the request carries. Its counts go by its name, so that a rotated key
            keeps them.
        headers: The response's headers, to which each decision adds the state of the limits.
        scope: What is cached is shared only with requests of the same one.
        is_counted: Whether the request was counted before.
        budgeted: The tokens that are reserved of the key's budget.
        model: The served name of the request's model, once it is known.
        used: What the request used; None as long as it isn't known.
        is_metered: Whether the request counts in the ledger.
        is_recorded: Whether it has been counted there.
        requests: As how many requests it counts there: a stream that is taken up is the request
            that began it.
        failed: Whether it ended in an error after its answer had begun.

    Raises:
        RateLimitedError: A decision was against the request, which does not count at all then.
        LimitsUnavailableError: The limiter could not decide.
    """

    limiter: Limiter
    meter: Meter
    key: ApiKey
    limits: KeyLimits
    headers: dict[str, str]
    scope: str = ""
    grant: Grant | None = None
    budgeted: int = 0
    model: str = ""
    used: Used | None = None
    is_counted: bool = False
    is_metered: bool = False
    is_recorded: bool = False
    requests: int = 1
    failed: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether `reserve` may refuse tokens."""
        return not self.limits.unlimited or self.meter.has_budget(self.key.name)

    def continues(self) -> None:
        """Note that the request takes up an earlier one's stream, and counts with that one.

        Tokens and requests at a time count as ever.
        """
        self.is_counted = True
        self.requests = 0
        self.limits = msgspec.structs.replace(self.limits, requests=None)

    async def begin(self, *, wait: bool) -> None:
        """Decide on the request now or, with `wait`, when its tokens are known or at its end.

        A request that would be refused with any number of tokens does not wait.
        """
        if self.is_counted:
            return
        try:
            if wait and not self.limiter.likely_full(self.key.name, self.limits):
                return
        except OSError as error:
            raise unavailable(error) from None
        await self.reserve(0)

    async def reserve(self, tokens: int, *, runs: bool = True) -> None:
        """Reserve the most tokens that the request may use, and count the request if it was not.

        It is no longer running if `runs` is False.
        """
        try:
            if not self.limits.unlimited:
                await self._reserve(tokens, runs=runs)
            if tokens and not self.budgeted:
                self.budgeted = self.meter.reserve(self.key.name, tokens)
        except RateLimitedError:
            await self.abandon()
            raise

    async def _reserve(self, tokens: int, *, runs: bool) -> None:
        try:
            if self.grant is None:
                name = self.key.name
                self.grant = await self.limiter.reserve(name, self.limits, tokens, runs=runs)
                decision = self.grant.decision
            else:
                decision = await self.grant.reserve(tokens)
        except OSError as error:
            raise unavailable(error) from None
        add_headers(self.headers, decision)
        if decision.reason == "budget" and (budget := self.limits.budget) is not None:
            raise self.meter.used_up(self.key.name, budget, tokens, decision.budget_left)
        if not decision.allowed:
            raise refusal(self.key, decision)

    async def count(self) -> None:
        """Count a request that was answered without using tokens, if it was not counted."""
        if self.grant is None and not self.is_counted:
            await self.reserve(0, runs=False)

    def settle(self, model: str, used: Used) -> None:
        """Set what the request used so far, and of which model.

        Its tokens replace the reserved ones at its end.
        """
        self.model, self.used, self.is_metered = model, used, True

    def record(self, *, failed: bool = False) -> None:
        """Count the request in the ledger, with what it used, if it wasn't; give the rest back."""
        reserved, self.budgeted = self.budgeted, 0
        used = None
        if self.is_metered and not self.is_recorded:
            self.is_recorded = True
            used = msgspec.structs.replace(
                self.used or Used(), requests=self.requests, errors=int(failed)
            )
        self.meter.settle(self.key.name, self.model, reserved, used)

    async def abandon(self) -> None:
        """End the request as if it had not been made."""
        self.is_metered = False
        if self.grant is not None:
            try:
                await self.grant.abandon()
            except OSError as error:
                log.error("could not abandon a request", key=self.key.name, reason=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        failed = kind is not None and not issubclass(kind, ClientDisconnected)
        self.record(failed=failed or self.failed)
        if self.grant is not None:
            try:
                await self.grant.settle(None if self.used is None else self.used.tokens)
            except OSError as error:  # the request was answered all the same
                log.error("could not settle a request", key=self.key.name, reason=error)


def _scope_of(key: ApiKey) -> str:
    return f"group {key.group}" if key.group is not None else f"key {key.name}"
