"""The limiter of several gateways: the counts are in a server that they share.

One call of its script decides on a request. What a request holds is freed when its lease ends,
unless its gateway renews the lease. So a gateway that dies holds nothing after `lease_s`; what it
had used of a window leaves with the window.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import count

import msgspec

from vgate.config.schema import State
from vgate.frontend.access.budget import Budgets
from vgate.frontend.access.limiter.port import (
    NS,
    TOKEN_WINDOW_NS,
    Decision,
    Grant,
    KeyLimits,
    Limiter,
    LimiterAwayError,
    Quota,
    Usage,
)
from vgate.frontend.observe import metrics
from vgate.frontend.shared_state.calls import TICKS, Answer, BudgetCall, Call, Operation, names_of
from vgate.frontend.shared_state.server import SharedState, StateAwayError

# Keys of which we remember when they were counted last.
_MOST_SEEN = 100_000
_PERIOD_S = 32 * 24 * 3600


class SharedLimiter:
    """A `Limiter` whose counts several gateways share, of their limits and their budgets.

    Args:
        link: Calls the server; closed with this.
        local: Decides instead while the server is away, if `settings` say so; closed with this.
        settings: The configuration's section.
        gateway: This gateway's id, the same in all its workers and after a restart.
        budgets: What this gateway has used.
        clock_ns: The time, instead of the server's.
        wall_s: Unix time.
    """

    holds_budgets = True

    def __init__(
        self,
        link: SharedState,
        local: Limiter,
        settings: State,
        gateway: str,
        budgets: Budgets,
        *,
        clock_ns: Callable[[], int] | None = None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.link = link
        self.local = local
        self.settings = settings
        self.strict = settings.on_failure == "refuse"
        self.wall_s = wall_s
        self.second = TICKS if clock_ns is None else NS
        self._clock_ns = clock_ns
        self._gateway = gateway
        self._budgets = budgets
        self._holder = secrets.token_hex(6)
        self._numbers = count()
        self._seen: OrderedDict[str, tuple[int, KeyLimits]] = OrderedDict()
        # Until when, by our clock, a key's requests will most likely be refused.
        self._full: dict[str, float] = {}
        # What has to be renewed: grants by key and id.
        self._held: dict[str, dict[str, SharedGrant]] = {}
        self._budgeted: dict[str, KeyLimits] = {}

    def likely_full(self, key_id: str, limits: KeyLimits) -> bool:
        """Guess from the latest refusal."""
        if self.link.away is not None:
            return self.strict or self.local.likely_full(key_id, limits)
        until = self._full.get(key_id)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._full[key_id]
        return False

    async def reserve(
        self, key_id: str, limits: KeyLimits, tokens: int = 0, *, runs: bool = True
    ) -> Grant:
        """Count a request, in one call, or refuse it.

        Raises:
            LimiterAwayError: The server is away, or has lost counts, and nothing may stand in.
        """
        id_ = f"{self._holder}-{next(self._numbers):x}"
        grant = SharedGrant(limiter=self, key_id=key_id, limits=limits, id=id_)
        if not limits.unlimited:
            try:
                await grant.take(1, tokens, runs=runs)
            except StateAwayError as error:
                return await self.instead(error, key_id, limits, tokens, runs=runs)
        return grant

    async def instead(
        self, error: StateAwayError, key_id: str, limits: KeyLimits, tokens: int, *, runs: bool
    ) -> Grant:
        """Return what this machine's limiter grants, or raise `LimiterAwayError`."""
        metrics.STATE_WITHOUT.labels("refused" if self.strict else "local").inc()
        if self.strict:
            raise LimiterAwayError(str(error), 1.0) from None
        return await self.local.reserve(key_id, limits, tokens, runs=runs)

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        """Return what a key uses now; of this machine if the server is away."""
        try:
            answer = await self.link.call(*self.made("usage", key_id, limits))
        except StateAwayError:
            return await self.local.usage(key_id, limits)
        return Usage(answer.requests, answer.tokens, answer.running, answer.budget)

    def renew(self) -> None:
        """Tell the server what runs, so that it does not lapse, and what was used of budgets."""
        for key_id, grants in self._held.items():
            some = next(iter(grants.values()))
            keys, call = self.made("renew", key_id, some.limits)
            call.ids = [id_ for id_, grant in grants.items() if grant.runs]
            call.budgeted = {id_: n for id_, grant in grants.items() if (n := grant.budgeted)}
            self.link.post(keys, call, lasting=False)

    def tell_all(self) -> None:
        """Tell a server that may have lost its data all that it must know."""
        self.renew()
        for key_id, limits in self._budgeted.items():
            self.tell(key_id, limits)
        if self.strict:
            for key_id, (_, limits) in self._seen.items():
                self.tell(key_id, limits)

    def tell(self, key_id: str, limits: KeyLimits) -> None:
        """Tell the server what was used of a budget, and the latest stamp that it should know."""
        keys, call = self.made("usage", key_id, limits)
        call.strict, call.seen = self.strict, self.seen(key_id)
        self.link.post(keys, call)

    def know(self, limits: Mapping[str, KeyLimits]) -> None:
        """Tell of these keys what was used of their budgets, though none of their requests came."""
        self._budgeted |= {key: each for key, each in limits.items() if each.budget is not None}

    def close(self) -> None:
        """Close the link and the local limiter."""
        self.link.close()
        self.local.close()

    def made(self, op: Operation, key_id: str, limits: KeyLimits) -> tuple[tuple[str, ...], Call]:
        """Return the keys of a call, and the call with the limits."""
        budget, second = limits.budget, self.second
        call = Call(
            op=op,
            second=second,
            now=None if self._clock_ns is None else self._clock_ns(),
            lease=round(self.settings.lease_s * second),
            requests=limits.requests,
            window=limits.window_ns * second // NS,
            token_limit=limits.tokens_per_minute,
            token_window=TOKEN_WINDOW_NS * second // NS,
            concurrent=limits.concurrent,
        )
        names = names_of(self.settings.prefix, key_id)
        if budget is None:
            return names, call
        self._budgeted[key_id] = limits
        call.budget = BudgetCall(
            tokens=budget.tokens,
            gateway=self._gateway,
            used=self._budgets.counted(key_id, budget),
            keep=_PERIOD_S * second,
        )
        period = budget.number(self._budgets.today())
        return (*names[:-1], f"{names[-1]}-{period}"), call

    def seen(self, key_id: str) -> int:
        """Return the latest stamp that is known of a key."""
        found = self._seen.get(key_id)
        return 0 if found is None else found[0]

    def note(self, key_id: str, limits: KeyLimits, answer: Answer) -> None:
        """Remember the latest stamp of a key, and until when it is full."""
        if answer.last > self.seen(key_id):
            if limits.requests is None and key_id in self._seen:
                # It goes on with a stream; the key's other requests still have their window.
                requests = self._seen[key_id][1].requests
                limits = msgspec.structs.replace(limits, requests=requests)
            self._seen[key_id] = answer.last, limits
            self._seen.move_to_end(key_id)
            if len(self._seen) > _MOST_SEEN:
                self._seen.popitem(last=False)
        if answer.reason in ("requests", "concurrent") and answer.wait > 0:
            self._full[key_id] = time.monotonic() + answer.wait / self.second

    def hold(self, grant: "SharedGrant") -> None:
        """Renew what a grant holds, until it is let go."""
        self._held.setdefault(grant.key_id, {})[grant.id] = grant

    def let_go(self, grant: "SharedGrant") -> None:
        """Renew it no more."""
        if (grants := self._held.get(grant.key_id)) is not None:
            grants.pop(grant.id, None)
            if not grants:
                del self._held[grant.key_id]


class SharedGrant(msgspec.Struct, kw_only=True, eq=False):
    """A `Grant`. A decision is one call; its end is told later, until the server has heard it.

    Attributes:
        runs: Whether the request holds a lease.
        budgeted: Its tokens that are reserved of a budget.
        instead: What holds its tokens if the server was away when they were known.
    """

    limiter: SharedLimiter
    key_id: str
    limits: KeyLimits
    id: str
    runs: bool = False
    counted: bool = False
    tokens: int | None = None
    budgeted: int = 0
    instead: Grant | None = None
    decision: Decision = Decision()

    async def take(self, cost: int, tokens: int, *, runs: bool) -> None:
        """Take all that is asked for, or give back what was taken before.

        Raises:
            StateAwayError: The server could not decide.
            LimiterAwayError: The server has lost counts, and would allow too much.
        """
        limiter = self.limiter
        if limiter.strict and (wait_s := limiter.link.settled_at - time.monotonic()) > 0:
            metrics.STATE_WITHOUT.labels("refused").inc()
            raise LimiterAwayError("the server was restarted", wait_s)
        keys, call = limiter.made("admit", self.key_id, self.limits)
        call.id, call.cost, call.tokens, call.runs = self.id, cost, tokens, runs
        call.strict = limiter.strict
        call.seen = limiter.seen(self.key_id)
        try:
            answer = await limiter.link.call(keys, call)
        except StateAwayError as error:
            if error.unsure and cost:
                self._end(abandon=True)
            elif error.unsure:
                self.tokens = tokens
            raise
        except BaseException:  # the client left meanwhile
            if cost:
                self._end(abandon=True)
            raise
        limiter.note(self.key_id, self.limits, answer)
        if answer.reason == "lost":
            metrics.STATE_WITHOUT.labels("refused").inc()
            raise LimiterAwayError("counts were lost", answer.wait / limiter.second)
        self.decision = self._decision(answer)
        if answer.reason is None:
            self.counted = True
            self.runs = self.runs or runs
            if tokens:
                self.tokens = tokens
                self.budgeted = 0 if self.limits.budget is None else tokens
            if self.runs or self.budgeted:
                limiter.hold(self)
        else:
            limiter.let_go(self)
            self.counted = self.runs = False

    def _decision(self, answer: Answer) -> Decision:
        limits, second, now_s = self.limits, self.limiter.second, self.limiter.wall_s()
        requests = tokens = None
        if (limit := limits.requests) is not None:
            reset_at = now_s + answer.requests_left_in / second
            requests = Quota(limit, max(0, limit - answer.requests), reset_at)
        if (limit := limits.tokens_per_minute) is not None:
            reset_at = now_s + answer.tokens_left_in / second
            tokens = Quota(limit, max(0, limit - answer.tokens), reset_at)
        reason = answer.reason
        assert reason != "late"
        assert reason != "lost"
        retry_after_s = answer.wait / second if answer.wait > 0 else None
        return Decision(reason, retry_after_s, answer.wait < 0, requests, tokens, answer.left)

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens, or give the request back."""
        limits = self.limits
        if not tokens or not self.counted or self.tokens is not None or self.instead is not None:
            return self.decision
        if limits.tokens_per_minute is None and limits.budget is None:
            return self.decision  # the other limits were checked already
        try:
            await self.take(0, tokens, runs=False)
        except StateAwayError as error:
            self.instead = await self.limiter.instead(
                error, self.key_id, limits, tokens, runs=False
            )
            self.decision = self.instead.decision
            if not self.decision.allowed:
                await self.abandon()
        return self.decision

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request with the tokens that it used."""
        if self.instead is not None:
            await self.instead.settle(used_tokens)
        if self.counted and (self.runs or self.tokens is not None):
            self._end(used=used_tokens if self.tokens is not None else None)
        self.counted = False

    async def abandon(self) -> None:
        """End the request and give back what it took."""
        if self.instead is not None:
            await self.instead.abandon()
        if self.counted:
            self._end(abandon=True)
        self.counted = False

    def _end(self, *, used: int | None = None, abandon: bool = False) -> None:
        limiter = self.limiter
        limiter.let_go(self)
        self.runs = False
        keys, call = limiter.made("settle", self.key_id, self.limits)
        call.id, call.used, call.abandon = self.id, used, abandon
        limiter.link.post(keys, call)
