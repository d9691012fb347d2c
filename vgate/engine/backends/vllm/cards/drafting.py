"""Switches vLLM's drafting on and off while it runs, as `draft_control` decides."""

from collections import deque
from collections.abc import Callable
from typing import Any

from vgate.config.model import Model
from vgate.engine.backends.vllm.cards.draft_control import DraftControl
from vgate.log import Log

log = Log("vgate.engine.vllm")


class Drafting:
    """Times the steps of one of vLLM's schedulers, and says how many tokens they draft.

    A scheduler with a schedule reads in each step how many tokens to draft for a batch of its
    size, from a list (`dynamic_sd_lookup`), and the model's runner drafts none for 0. So no more
    than this list is changed.
    """

    def __init__(self, scheduler: Any, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._lookup: list[int] = scheduler.dynamic_sd_lookup
        self._most = max(self._lookup)
        self.control = DraftControl(len(self._lookup), _report)
        # The steps in flight, and when each was scheduled; they end in the same order.
        self._scheduled: deque[tuple[Any, float]] = deque()
        self._ended_at = 0.0
        self._schedule = scheduler.schedule
        self._update_from_output = scheduler.update_from_output
        scheduler.schedule = self._timed_schedule
        scheduler.update_from_output = self._timed_update
        self._apply()

    def _timed_schedule(self, *arguments: Any) -> Any:
        now = self._clock()
        scheduled = self._schedule(*arguments)
        self._scheduled.append((scheduled, now))
        return scheduled

    def _timed_update(self, scheduled: Any, ran: Any) -> Any:
        now = self._clock()
        if self._scheduled and self._scheduled[0][0] is scheduled:
            # With asynchronous scheduling a step waits for the one before it.
            began = max(self._scheduled.popleft()[1], self._ended_at)
            self._observe(scheduled, ran, now - began)
        self._ended_at = now
        return self._update_from_output(scheduled, ran)

    def _observe(self, scheduled: Any, ran: Any, seconds: float) -> None:
        counts, drafts = scheduled.num_scheduled_tokens, scheduled.scheduled_spec_decode_tokens
        sequences = len(counts)
        checked = sum(map(len, drafts.values()))
        if not sequences or scheduled.total_num_scheduled_tokens != sequences + checked:
            return  # it computes prompts as well
        tokens = sum(map(len, ran.sampled_token_ids))
        drafted = scheduled.num_spec_tokens_to_schedule > 0
        if tokens and self.control.observe(sequences, tokens, seconds, drafted=drafted):
            self._apply()

    def _apply(self) -> None:
        lookup = self._lookup
        for size in range(1, len(lookup)):
            lookup[size] = self._most if self.control.drafts[size.bit_length()] else 0


def _report(what: str) -> None:
    log.info("speculation", choice=what)


def control_drafting(scheduler: Any, model: Model, clock: Callable[[], float]) -> Drafting | None:
    """Let a scheduler draft only where that pays; None if V-Gate did not set its drafting up."""
    operators = "speculative_config" in model.engine_args
    if model.speculation == "none" or operators or not scheduler.dynamic_sd_lookup:
        return None
    return Drafting(scheduler, clock)
