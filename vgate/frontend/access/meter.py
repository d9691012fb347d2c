"""What each request used: counted for the ledger once, and held against the budget of its key."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from vgate.errors import BudgetUsedUpError, LedgerUnavailableError, LimitsUnavailableError
from vgate.frontend.access.budget import Budget, Budgets
from vgate.frontend.observe import metrics
from vgate.keys import KeyRing
from vgate.log import Log
from vgate.usage import CountsFile, LedgerError, Used, read_usage
from vgate.usage.ledger import COUNTS

log = Log("vgate.frontend")


def tokens_used_since(state: Path, key: str, day: date) -> int:
    """Return the tokens that a key has used since a day.

    Raises:
        OSError: The ledger can't be read.
    """
    try:
        return sum(row.used.tokens for row in read_usage(state, by=(), since=day, key=key))
    except LedgerError as error:
        raise OSError(str(error)) from None


class Meter:
    """One worker's counts and budgets.

    Args:
        state: The state directory, where it is counted.
        budgets: Where it is held against budgets; closed with this.
        per_key: Whether Prometheus gets what each key uses.
    """

    def __init__(self, state: Path, budgets: Budgets, *, per_key: bool = False) -> None:
        self.state = state
        self.counts = CountsFile(state / COUNTS)
        self._budgets = budgets
        self._per_key = per_key
        self._of: dict[str, Budget] = {}

    def on_keys(self, keys: KeyRing) -> None:
        """Take over the budgets of the keys in force."""
        before = self._of
        self._of = {key.name: budget for key in keys if (budget := Budget.of(key)) is not None}
        for name in before.keys() | self._of.keys():
            if before.get(name) != self._of.get(name):
                try:
                    self._budgets.begin_anew(name)
                except OSError as error:
                    log.error("could not change a budget", key=name, reason=error)

    def has_budget(self, key: str) -> bool:
        """Whether a key has a budget."""
        return key in self._of

    def reserve(self, key: str, tokens: int) -> int:
        """Reserve the most tokens that a request may use; return how many `settle` gives back.

        Raises:
            BudgetUsedUpError: Its key's budget has not so many left.
            LimitsUnavailableError: That can't be told now.
        """
        budget = self._of.get(key)
        if budget is None:
            return 0
        try:
            left = self._budgets.reserve(key, budget, tokens)
        except OSError as error:
            log.error("a budget could not be checked", key=key, reason=error)
            message = f"the budget of the API key `{key}` can't be checked now"
            raise LimitsUnavailableError(message, retry_after_s=5.0) from None
        if left is None:
            return tokens
        raise self.used_up(key, budget, tokens, left)

    def used_up(self, key: str, budget: Budget, tokens: int, left: int) -> BudgetUsedUpError:
        """Count a request that a budget refuses, and return the error."""
        metrics.RATE_LIMITED.labels(key, "budget").inc()
        begins = budget.next_begins(self._budgets.today())
        anew = f"the budget begins anew at {begins:%Y-%m-%dT%H:%M:%SZ}"
        per = f"{budget.tokens} tokens per {budget.period}"
        if not left:
            return BudgetUsedUpError(f"the budget of this API key ({per}) is used up; {anew}")
        return BudgetUsedUpError(
            f"this request may use {tokens} tokens, and the budget of this API key ({per}) has "
            f"{left} left; allow a shorter answer (max_tokens), or wait: {anew}"
        )

    def settle(self, key: str, model: str, reserved: int, used: Used | None) -> None:
        """Count a request that has ended, and give back what `reserve` said.

        The served name of the model is empty if it got to none. `used` is None if it doesn't count.
        """
        if used is None and not reserved:
            return

        budget = self._of.get(key)
        if used is not None and budget is None and not reserved:
            self.counts.add(key, model, self._budgets.today(), used)
        else:
            self._settle_budget(key, model, budget, reserved, used)
        if used is not None and self._per_key:
            metrics.record_key(key, used)

    def _settle_budget(
        self, key: str, model: str, budget: Budget | None, reserved: int, used: Used | None
    ) -> None:
        def count(day: date) -> None:
            if used is not None:
                self.counts.add(key, model, day, used)

        tokens = 0 if used is None else used.tokens
        try:
            self._budgets.settle(key, budget, reserved, tokens, count)
        except OSError as error:  # the request was answered all the same
            log.error("could not settle a budget", key=key, reason=error)

    def budget_of(self, key: str) -> tuple[Budget, int | None] | None:
        """Return a key's budget, and what it has used and reserved of it; None if that is unknown.

        Who looks at many keys because something is wrong must see the rest.
        """
        if (budget := self._of.get(key)) is None:
            return None
        with suppress(OSError):
            return budget, self._budgets.used(key, budget)
        return budget, None

    def close(self) -> None:
        """Leave the counts to the launcher, and give up what is reserved."""
        self.counts.close()
        self._budgets.close()


class LedgerReader:
    """Implements `vgate.frontend.services.Ledger`.

    Args:
        meter: This worker's.
        problem: Returns why the launcher can't write to the ledger; empty if it can.
    """

    def __init__(self, meter: Meter, problem: Callable[[], str]) -> None:
        self._meter = meter
        self._problem = problem

    def problems(self) -> list[str]:
        """Return why use isn't written where it should be, and try again."""
        counts = self._meter.counts
        counts.save()
        found = [f"use is counted in memory only: {counts.problem}"] if counts.problem else []
        if problem := self._problem():
            found.append(f"use is not in the ledger yet: {problem}")
        return found

    async def read(
        self, by: Collection[str], since: date, until: date, key: str | None
    ) -> list[dict[str, Any]]:
        """Return the use, read on a thread."""
        work = partial(read_usage, self._meter.state, by, since=since, until=until, key=key)
        try:
            rows = await asyncio.get_running_loop().run_in_executor(None, work)
        except LedgerError as error:
            log.error("the ledger can't be read", reason=error)
            message = "what was used can't be told now: the ledger can't be read (see the log)"
            raise LedgerUnavailableError(message, retry_after_s=5.0) from None
        return [row.flat for row in rows]
