"""Runs a backend with all that it promises at once, for as long as that may take."""

import math
import time
from collections.abc import Callable
from typing import Protocol

from vgate.engine.backends.base import Backend, Output
from vgate.engine.fill.plan import ANSWER_TOKENS, Planner, Stage
from vgate.engine.request import RequestError
from vgate.log import Log

# Of the time that is left. The context is estimated with more care: the time of a token grows with
# the length, and where a prompt can't be read in parts its step can't be stopped.
_CONTEXT_SHARE = 0.4
_BATCH_SHARE = 0.8
# Beyond this vLLM begins to take sequences out of the batch, to compute them again.
_FULL = 0.98
_REPORT_EVERY_S = 1.0
_PAUSE_S = 0.001

log = Log("vgate.engine")


class ReportProgress(Protocol):
    """Reports what is being filled, and how far that is."""

    def __call__(self, phase: str, done_tokens: int, total_tokens: int, /) -> None:
        """Report it."""


class Filling:
    """Fills a backend. It runs nothing else meanwhile.

    Attributes:
        longest: The tokens of the longest prompt that has been computed.
        tokens: The most tokens that the KV cache has held at once.
        slowest_step_s: The longest step; where the whole context had no time, as its part suggests.
        whole: Whether there was time for all of it.
    """

    def __init__(
        self,
        backend: Backend,
        report: ReportProgress,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._report = report
        self._clock = clock
        self._ends_at = clock() + limit_s
        self._planner = Planner(backend.model, backend.files)
        self.longest = self.tokens = 0
        self.slowest_step_s = 0.0
        self.whole = True

    def run(self) -> None:
        """Fill the context, then the batch; leave nothing behind.

        The backend's exceptions pass through: its state is unknown then.
        """
        planner = self._planner
        self._fill(planner.kinds())
        pace = self._fill(planner.probe())
        context = self._possible(planner.context_tokens, _CONTEXT_SHARE * pace)
        # Of the first steps, one may have compiled something.
        self.slowest_step_s = 0.0
        pace = self._fill(planner.context(context, pace))
        self.slowest_step_s *= planner.context_tokens / context
        batch = self._possible(planner.batch_tokens, _BATCH_SHARE * pace)
        self._fill(planner.batch(batch), enough=_FULL)
        self._backend.forget()

    def _possible(self, tokens: int, tokens_per_s: float) -> int:
        """Return how many of so many tokens there is time for."""
        possible = int((self._ends_at - self._clock()) * tokens_per_s)
        self.whole &= possible >= tokens
        return max(1, min(possible, tokens))

    def _fill(self, stage: Stage, enough: float = math.inf) -> float:
        """Run a stage until each of its requests has generated a little; return tokens a second.

        It ends before that where so much of the KV cache is in use.
        """
        self._report(stage.name, 0, stage.tokens)
        began = self._clock()
        next_report = began + _REPORT_EVERY_S
        left: dict[str, int] = {}
        for request in stage.requests:
            try:
                self._backend.add(request)
            except RequestError as error:
                log.info("not a part of the fill", reason=error.reason)
            else:
                left[request.key] = ANSWER_TOKENS
        running, full = list(left), False
        while left and not full and self._clock() < self._ends_at and self._backend.has_work():
            for output in self._step():
                _count(output, left)
            held = self.held()
            full = held >= enough * self._backend.model.kv_cache_tokens
            if self._clock() >= next_report:
                self._report(stage.name, min(held, stage.tokens), stage.tokens)
                next_report = self._clock() + _REPORT_EVERY_S
        took_s = self._clock() - began
        self._backend.abort(running)
        while self._backend.has_work():
            self._step()
        if left:
            self.whole &= full
        else:
            self.longest = max(self.longest, *(len(request.prompt) for request in stage.requests))
        return stage.tokens / max(took_s, 1e-6)

    def held(self) -> int:
        """Return how many tokens the KV cache holds now."""
        held = round(self._backend.kv_cache_usage() * self._backend.model.kv_cache_tokens)
        self.tokens = max(self.tokens, held)
        return held

    def _step(self) -> list[Output]:
        began = self._clock()
        outputs = self._backend.step()
        self.slowest_step_s = max(self.slowest_step_s, self._clock() - began)
        if outputs is None:
            time.sleep(_PAUSE_S)
            return []
        return list(outputs)


def _count(output: Output, left: dict[str, int]) -> None:
    """Count what a request has generated; drop it from `left` once that is enough."""
    if output.key not in left:
        return
    left[output.key] -= len(output.token_ids)
    ended = output.finish_reason or output.vector is not None or output.error is not None
    if ended or left[output.key] <= 0:
        del left[output.key]
