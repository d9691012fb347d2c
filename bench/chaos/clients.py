"""The clients: each asks, checks the answer against the known one, and asks again."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from bench.chaos import answers
from bench.chaos.answers import Json, ServerError, WrongError
from bench.chaos.deck import Ask
from bench.chaos.instance import Instance
from bench.chaos.victim import Fault
from bench.load.asking import asked
from bench.load.connection import Pool

# A worker that was just started knows no engine yet and refuses, as at the server's start.
_FRESH_S = 10.0
_MOST_DEATHS = 2
# What the server says of a request with which as many died, and of one that was sent again.
_TWO_DIED = ("as another one did before", "engines died while they worked on this request")
_LOGGED_S = 0.5
# Requests at a time while their answers are learned.
_MOST_LEARNED = 32


class Unexplained(msgspec.Struct, frozen=True):
    """An outcome that no fault excuses."""

    kind: str
    ask: Ask
    what: str
    at: float
    seconds: float


class Tally(msgspec.Struct):
    """What the clients saw.

    Attributes:
        outcomes: Requests by outcome: right, excused (an error or a broken connection that the
            faults explain), wrong, failed, hung.
        kinds: Right answers by the request's kind.
        excused: The reasons of the excused ones.
        spanned: Right answers by the number of engines' deaths within them.
    """

    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    excused: Counter[str] = msgspec.field(default_factory=Counter)
    spanned: Counter[int] = msgspec.field(default_factory=Counter)
    unexplained: list[Unexplained] = []
    longest_s: float = 0.0


class Clients:
    """Asks an instance, whose faults so far are `faults`.

    A request that takes longer than `patience_s`, with all deaths within it, hangs.
    """

    def __init__(
        self, instance: Instance, faults: Sequence[Fault], patience_s: float = 90.0
    ) -> None:
        self._instance = instance
        self._faults = faults
        self._patience_s = patience_s
        self._pool = Pool(instance.target, keepalive=True)
        self.tally = Tally()

    async def learn(self, asks: Sequence[Ask]) -> list[tuple[Ask, Json]]:
        """Return each request with its answer; without faults there must be one.

        Raises:
            WrongError, ServerError: An answer is wrong, or is not the same again.
        """
        free = asyncio.Semaphore(_MOST_LEARNED)

        async def learned(ask: Ask) -> tuple[Ask, Json]:
            async with free:
                first, again = [await self.said(ask) for _ in range(2)]
            if first != again:
                raise WrongError(f"two answers to {ask.kind}: {first} and {again}")
            return ask, first

        return await asyncio.gather(*map(learned, asks))

    async def run(self, learned: Sequence[tuple[Ask, Json]], go_on: Callable[[], bool]) -> None:
        """Be one client, with these requests in turn, as long as `go_on` says so."""
        turns = itertools.cycle(learned)
        while go_on():
            ask, known = next(turns)
            began = time.monotonic()
            outcome, what = await self._outcome(ask, known)
            self._count(ask, outcome, what, began)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    async def _outcome(self, ask: Ask, known: Json) -> tuple[str, str]:
        try:
            found = await self.said(ask)
        except WrongError as error:
            return "wrong", str(error)
        except ServerError as error:
            return "failed", str(error)
        except (OSError, TimeoutError) as error:
            return "broken", str(error) or type(error).__name__
        if found != known:
            return "wrong", f"{found} instead of {known}"
        return "right", ""

    async def said(self, ask: Ask) -> Json:
        """Return what the answer says.

        Raises:
            WrongError, ServerError: It is not complete; it is an error.
            OSError: The connection broke.
            TimeoutError: The answer did not end.
        """
        answer = await asked(
            self._pool,
            ask.path,
            {"model": "", **ask.body},
            key=self._instance.key,
            limit_s=self._patience_s,
        )
        return answers.said(ask.path, answer.body, stream=ask.stream and answer.error is None)

    def _count(self, ask: Ask, outcome: str, what: str, began: float) -> None:
        tally, ended = self.tally, time.monotonic()
        tally.longest_s = max(tally.longest_s, ended - began)
        engines = self._deaths("engine", began, ended)
        if outcome == "right":
            tally.outcomes[outcome] += 1
            tally.kinds[ask.kind] += 1
            tally.spanned[engines] += 1
            return
        if outcome == "broken" and ended - began >= self._patience_s:
            outcome = "hung"
        if (excuse := self._excuse(outcome, what, engines, began, ended)) is not None:
            tally.outcomes["excused"] += 1
            tally.excused[excuse] += 1
            return
        tally.outcomes[outcome] += 1
        tally.unexplained.append(Unexplained(outcome, ask, what, began, ended - began))

    def _excuse(
        self, outcome: str, what: str, engines: int, began: float, ended: float
    ) -> str | None:
        """Return what explains an error or a broken connection; None if nothing does."""
        if outcome == "broken" and self._deaths("frontend", began, ended):
            return "its frontend died"
        if outcome == "failed" and what.startswith(("engine_unavailable", "overloaded")):
            if engines >= _MOST_DEATHS and any(reason in what for reason in _TWO_DIED):
                return "two engines died within it"
            if engines and self._deaths("frontend", began - _FRESH_S, ended):
                return "a new frontend had no engine yet"
        return None

    def _deaths(self, role: str, began: float, ended: float) -> int:
        """Return how many faults from which a process died touched a period."""
        inflicted = sum(
            fault.deaths == role
            and fault.began <= ended
            and (fault.ended == 0.0 or fault.ended >= began)
            for fault in self._faults
        )
        if role != "engine":
            return inflicted
        # Those of the simulated engine's own faults, which the launcher logs a moment later.
        died = self._instance.own_deaths
        return inflicted + sum(began - _LOGGED_S <= at <= ended + _LOGGED_S for at in died)
