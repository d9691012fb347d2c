"""Steers how many tokens vLLM's scheduler puts into a step, from one step to the next."""

from collections import deque
from collections.abc import Callable
from typing import Any

from vgate.config.schema import Batch
from vgate.engine.prefill_budget import PrefillBudget


class StepBudget:
    """Bounds the prompt tokens of the steps of one of vLLM's schedulers, or only times them.

    The scheduler reads its `max_num_scheduled_tokens` in each step, so no more than the bound is
    changed. It starts what waits in order and computes one prompt after the other: only the last of
    its running sequences can have a prompt that is not computed.
    """

    def __init__(
        self,
        scheduler: Any,
        budget: PrefillBudget,
        clock: Callable[[], float],
        *,
        bounds: bool = True,
    ) -> None:
        self._scheduler = scheduler
        self._budget = budget
        self._bounds = bounds
        self._clock = clock
        self._most: int = scheduler.max_num_scheduled_tokens
        # A sequence that decodes may have drafted tokens checked as well.
        self._tokens_each: int = 1 + scheduler.num_spec_tokens
        # The steps in flight, and when each was scheduled; they end in the same order.
        self._scheduled: deque[tuple[Any, float]] = deque()
        self._ended_at = 0.0
        self._schedule = scheduler.schedule
        self._update_from_output = scheduler.update_from_output
        scheduler.schedule = self._bounded_schedule
        scheduler.update_from_output = self._timed_update

    def _bounded_schedule(self, *arguments: Any) -> Any:
        if self._bounds:
            self._scheduler.max_num_scheduled_tokens = self._tokens()
        now = self._clock()
        scheduled = self._schedule(*arguments)
        self._scheduled.append((scheduled, now))
        return scheduled

    def _tokens(self) -> int:
        scheduler, most = self._scheduler, self._most
        running = scheduler.running
        decoding = len(running)
        starting = len(scheduler.waiting) + len(scheduler.kv_holding_waiting)
        if running and running[-1].is_prefill_chunk:
            decoding -= 1
            starting += 1
        if not starting:
            return most
        prompt_tokens = self._budget.tokens(decoding, starting)
        if prompt_tokens is None:
            return most
        return min(most, decoding * self._tokens_each + prompt_tokens)

    def _timed_update(self, scheduled: Any, output: Any) -> Any:
        now = self._clock()
        if not self._scheduled or self._scheduled[0][0] is not scheduled:
            # It was scheduled before these were timed.
            return self._update_from_output(scheduled, output)
        # With asynchronous scheduling a step waits for the one before it.
        began = max(self._scheduled.popleft()[1], self._ended_at)
        self._ended_at = now
        if total := scheduled.total_num_scheduled_tokens:
            drafted = scheduled.scheduled_spec_decode_tokens
            prompt_tokens = total - len(scheduled.num_scheduled_tokens)
            if drafted:
                prompt_tokens -= sum(map(len, drafted.values()))
            self._budget.observe(prompt_tokens, now - began)
        return self._update_from_output(scheduled, output)


def steer(
    scheduler: Any, config: Any, batch: Batch, clock: Callable[[], float]
) -> PrefillBudget | None:
    """Bound the steps of a scheduler from now on, if that is wanted and a prompt can be in parts.

    Returns what it is bounded by, or None.

    Args:
        scheduler: One of vLLM's.
        config: vLLM's configuration.
        batch: Our settings.
        clock: Returns monotonic seconds.
    """
    target_ms = batch.target_itl_ms
    # States of Mamba layers are kept at the ends of blocks, which bounds the parts already.
    if (
        target_ms is None
        or not config.scheduler_config.enable_chunked_prefill
        or scheduler.need_mamba_block_aligned_split
    ):
        return None
    budget = PrefillBudget(None if target_ms == "auto" else target_ms / 1000)
    StepBudget(scheduler, budget, clock)
    return budget


def time_steps(scheduler: Any, clock: Callable[[], float]) -> PrefillBudget:
    """Time the steps of a scheduler from now on."""
    budget = PrefillBudget(None)
    StepBudget(scheduler, budget, clock, bounds=False)
    return budget
