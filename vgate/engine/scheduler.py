"""The batch scheduler decides which requests enter the batch and when. Pure: no clock, no sockets.

It stands before vLLM's continuous batching and keeps vLLM's own waiting queue empty, so that it
alone decides the order:

- *KV tokens*: a request is admitted only while the tokens that the batch is expected to hold at its
  peak fit the KV cache (`forecast.kv_cache`). Beyond that, vLLM preempts and recomputes. While more
  wait than fit, answers of one known length begin evenly spread. A request that doesn't fit yet is
  passed by others that do, if by the forecast it starts no later for that.
- *Fairness*: the waiting tenant that was served the fewest tokens, in proportion to its weight, is
  next (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). Within a tenant,
  requests start in order of arrival. A tenant with little or nothing running has places and a part
  of the KV cache to itself (`tenants`), unless a more urgent request waits.
- *Priority*: a lower value starts before all higher ones, of any tenant, but never stops a running
  request. A constant load of urgent requests starves the others until they time out, which is why
  an API key needs permission for it. Tokens count for fairness at any priority.
- *Bounds*: a full queue rejects at once and says when to retry. Requests that a dead engine had
  admitted are accepted anyway: they are no more than fitted its queue and batch.
- *Gathering*: an idle engine that sees a burst waits for the rest of it, as long as requests arrive
  within a millisecond of each other, at most `max_wait_s`, and until `max_batch_size` have come. A
  lone request starts at once.
"""

import math
from bisect import insort
from collections import defaultdict

from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.forecast.finish_rate import FinishRate
from vgate.engine.forecast.kv_cache import KVForecast
from vgate.engine.forecast.limits import Limits
from vgate.engine.forecast.load import load_of
from vgate.engine.request import Request, RequestError
from vgate.engine.tenants import Reserve, Tenant, behind, cost, queue_full_of, queue_order
from vgate.wire.stats import Load

# Requests of one burst arrive at most this far apart.
BURST_GAP_S = 0.001
# A request that did not fit is tried again after as many steps as it had tokens too many, or these.
_MOST_STEPS_UNTRIED = 32
# The KV cache is not full any more once the queue has been empty for so many.
_RECOVERED_STEPS = 32
# While no more wait, a newcomer may soon pass them, or is soon their first.
_FEW = 16
# Prompt tokens that start in one turn while others run: what a backend does to start a sequence
# (vLLM hashes the prompt's blocks) takes 0.1 to 0.2 us a token, and 0.1 ms for the shortest prompt.
# A shorter prompt counts as the second number.
_TURN = 8192, 512
# With several tenants, so that a light one's prompt isn't computed after many others; more where
# more than half as much has started in each of the latest steps.
_SHARED_TURN = 128, 64
_RATE_STEPS = 64


class BatchScheduler:
    """Holds the waiting requests, and the `running` ones by key with what each has reserved."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tenants: defaultdict[str, Tenant] = defaultdict(Tenant)
        self._reserve = Reserve(limits.reserved_seqs, limits.kv_cache_tokens, self._tenants)
        self._waiting: dict[str, Request] = {}
        self._arrivals = 0
        self.running: dict[str, Request] = {}
        self._forecast = KVForecast(
            limits.kv_cache_tokens, limits.kv_block_tokens, limits.start_steps
        )
        # Calls of `admit` that need not look at the queue.
        self._untried = 0
        # Calls of `admit`, which are the steps while anything runs. Since when a request waits for
        # the KV cache, and whether that is for good: so many wait, or for so long.
        self._steps = self._last_waiting = 0
        self._full_since = math.inf
        # Prompt tokens that start in a step, on average, and when that was last brought up to date.
        self._start_rate, self._last_started = 0.0, 0
        self._crowded = False
        # How much the last admitted tenant had been served: the tenants' common clock.
        self._served_so_far = 0.0
        self._burst_began: float | None = None
        self._last_arrival = float("-inf")
        self._finishes = FinishRate()
        # No queue deadline is earlier, so `expire` need not walk over the queue at every step.
        self.next_deadline = math.inf

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    def submit(self, request: Request, now: float) -> None:
        """Queue a request; raise RequestError if the queue is full, or its tenant's part of it."""
        tenant = self._tenants[request.tenant]
        own = tenant.queue if request.tenant else ()
        full = queue_full_of(self._waiting.values(), own, request, self._limits.max_queue_size)
        if full and not request.resumed:
            reason = f"the queue is full ({full})"
            raise RequestError("overloaded", reason, retry_after_s=self.retry_after_s())
        if not tenant.queue:
            # A pause gives no credit: the tenant starts level with the least served one that has a
            # request, waiting or running; if there is none, at the common clock.
            running = {r.tenant for r in self.running.values()}
            active = [t.served for n, t in self._tenants.items() if t.queue or n in running]
            tenant.served = max(tenant.served, min(active, default=self._served_so_far))
            self._untried = 0
        elif len(self._waiting) < _FEW or request.priority < tenant.queue[0].priority:
            self._untried = 0
        if not self.running:
            # Two arrivals close together make a burst, whose start bounds the gathering. A lone
            # request starts at once, and so does the next one of a client just answered.
            if not self._waiting or now - self._last_arrival > BURST_GAP_S:
                self._burst_began = None
            elif self._burst_began is None:
                self._burst_began = self._last_arrival
        self._arrivals += 1
        request.order = self._arrivals
        tenant.weight, tenant.last_arrival = request.weight, now
        tenant.last_tokens = tenant.last_tokens or len(request.prompt) + request.max_tokens
        insort(tenant.queue, request, key=queue_order)
        self._waiting[request.key] = request
        self.next_deadline = min(self.next_deadline, request.queue_deadline)
        self._last_arrival = now

    def raise_priority(self, request: Request, priority: int) -> None:
        """Give a request a priority, if it waits and its own is less urgent."""
        if request.key in self._waiting and priority < request.priority:
            queue = self._tenants[request.tenant].queue
            queue.remove(request)
            request.priority = priority
            self._untried = 0
            insort(queue, request, key=queue_order)

    def gather_s(self, now: float) -> float:
        """Return the seconds that an idle engine should still gather a burst; 0 to start now."""
        if self.running or self._burst_began is None:
            return 0.0
        if len(self._waiting) >= self._limits.max_batch_size:
            return 0.0
        gap_ends = self._last_arrival + BURST_GAP_S
        return max(0.0, min(gap_ends, self._burst_began + self._limits.max_wait_s) - now)

    def idle_s(self, now: float, next_beat: float) -> float:
        """Return how long to wait for a message while the backend has nothing to do."""
        if not self._waiting:
            return next_beat - now
        return min(self.gather_s(now), min(next_beat, self.next_deadline) - now)

    def admit(self, now: float) -> list[Request]:
        """Move requests from the queue to the batch; return them in order.

        While others generate, those of a burst start over several turns, with a step after each.
        """
        self._steps += 1
        if not self._waiting:
            if self._steps - self._last_waiting > _RECOVERED_STEPS:
                self._full_since, self._crowded = math.inf, False
            return []
        self._last_waiting = self._steps
        if self.gather_s(now) > 0:
            return []
        self._burst_began = None
        if self._untried > 0:
            # The usual state of a busy engine; this is called after every step.
            self._untried -= 1
            return []
        admitted: list[Request] = []
        self._start_rate *= (1 - 1 / _RATE_STEPS) ** (self._steps - self._last_started)
        self._last_started = self._steps
        self._forecast.begin(self.running.values())
        left_tokens, least_tokens = self._turn_tokens()
        # Until a request comes or goes, nothing changes in a full batch.
        untried, only_light, blocked = _MOST_STEPS_UNTRIED, False, None
        while (tenant := self._next_tenant(only_light=only_light or left_tokens <= 0)) is not None:
            request = tenant.queue[0]
            if (steps := self._steps_until_fit(request)) > 0:
                untried = min(steps - 1, untried)
                if only_light or left_tokens <= 0:
                    break
                only_light, blocked = True, request
                continue
            self._forecast.start(request, self._steps)
            self._start(tenant, request)
            admitted.append(request)
            if request.sampling is not None:
                left_tokens -= max(len(request.prompt), least_tokens)
        if left_tokens > 0:
            self._untried = untried
            if blocked is not None:
                admitted += self._backfill(blocked, left_tokens)
        return admitted

    def finish(self, request: Request, now: float) -> None:
        """Remove a running request that is complete."""
        if self.running.pop(request.key, None) is None:
            return
        self._finishes.finished(now)
        self._settle(request)

    def remove(self, key: str) -> Request | None:
        """Remove a waiting or running request, without counting it as finished."""
        if request := self._waiting.pop(key, None):
            self._untried = 0
            self._tenants[request.tenant].queue.remove(request)
            return request
        if request := self.running.pop(key, None):
            self._settle(request)
        return request

    def preempted(self, total: int) -> None:
        """Note how many preemptions the backend has had since its start."""
        self._forecast.preempted(total)

    def load(self, blocks: CachedBlocks | None, prefill_tokens_per_s: float) -> Load:
        """Return what all requests will still take; the arguments are those of `load_of`."""
        usual = self._forecast.usual_tokens()
        running, waiting = self.running.values(), self._waiting.values()
        return load_of(running, waiting, usual, blocks, prefill_tokens_per_s)

    def expire(self, now: float) -> list[tuple[Request, RequestError]]:
        """Remove the waiting requests whose queue deadline has passed; return why each fails."""
        if now < self.next_deadline:
            return []
        expired = [request for request in self._waiting.values() if request.queue_deadline <= now]
        for request in expired:
            self.remove(request.key)
        deadlines = (request.queue_deadline for request in self._waiting.values())
        self.next_deadline = min(deadlines, default=math.inf)
        return [(request, self._too_late(request, now)) for request in expired]

    def retry_after_s(self) -> float:
        """Estimate the seconds until the queue is empty, from the rate at which requests finish."""
        return self._finishes.retry_after_s(len(self._waiting))

    def _too_late(self, request: Request, now: float) -> RequestError:
        reason = f"the request waited {now - request.arrived:.0f} s and was not started"
        return RequestError("queue_timeout", reason, retry_after_s=self.retry_after_s())

    def _turn_tokens(self) -> tuple[float, int]:
        """Return how many prompt tokens may start in this turn, and as how many one counts."""
        if not self.running:
            return math.inf, 0
        if not self._reserve.is_shared(self._last_arrival):
            return _TURN
        tokens, least = _SHARED_TURN
        return max(tokens, 2 * self._start_rate), least

    def _start(self, tenant: Tenant, request: Request) -> None:
        """Move a tenant's next request from the queue to the batch, and charge the tenant."""
        self._served_so_far = max(self._served_so_far, tenant.served)
        tenant.queue.remove(request)
        del self._waiting[request.key]
        self.running[request.key] = request
        tenant.running += 1
        request.charged_tokens = request.expected_tokens
        tenant.held_tokens += len(request.prompt) + request.charged_tokens
        tenant.served += cost(request, request.charged_tokens)
        if request.sampling is not None:
            self._start_rate += len(request.prompt) / _RATE_STEPS

    def _backfill(self, first: Request, left_tokens: float) -> list[Request]:
        """Start requests that fit where the first one still can when it could without them.

        So do schedulers of clusters (EASY: Lifka, "The ANL/IBM SP Scheduling System", 1995).
        """
        forecast, started = self._forecast, []
        if not (candidates := behind(self._tenants.values(), first, len(self.running))):
            return []
        kept = self._kept_beside(first)
        steps = forecast.wait(first, kept, self._early(first))
        for request in candidates:
            if left_tokens <= 0 or len(self.running) >= self._limits.max_num_seqs:
                break
            if (
                not (self._crowded and forecast.early(request, self._steps, beside=first))
                and forecast.excess(request, self._kept_beside(request)) <= 0
                and forecast.excess(first, kept, steps=steps, beside=request) <= 0
            ):
                forecast.start(request, self._steps)
                self._start(self._tenants[request.tenant], request)
                started.append(request)
                left_tokens -= len(request.prompt)
        return started

    def _kept_beside(self, request: Request) -> int:
        """Return the KV tokens that a request leaves to light tenants."""
        return self._reserve.tokens_beside(self._tenants[request.tenant], self._last_arrival)

    def _early(self, request: Request) -> int:
        """Return how many steps too early a request is, if requests wait for the KV cache."""
        if self._reserve.is_light(self._tenants[request.tenant]) or not self._is_crowded(request):
            return 0
        return self._forecast.early(request, self._steps)

    def _settle(self, request: Request) -> None:
        """Charge a tenant for the tokens that a request used instead of the reserved ones."""
        tenant, block = self._tenants[request.tenant], self._limits.kv_block_tokens
        tenant.running -= 1
        tenant.held_tokens -= len(request.prompt) + request.charged_tokens
        tenant.last_tokens = len(request.prompt) + request.generated_tokens + 2 * block
        self._untried = 0
        self._forecast.ended(request)
        used = cost(request, request.generated_tokens)
        charged = cost(request, request.charged_tokens)
        tenant.served += used - charged

    def _next_tenant(self, *, only_light: bool) -> Tenant | None:
        """Return the tenant whose request is next; None if there is no place for one.

        With `only_light`, or in the reserved places, only light tenants are taken, and none whose
        request is less urgent than another.
        """
        waiting = [tenant for tenant in self._tenants.values() if tenant.queue]
        free = self._limits.max_num_seqs - len(self.running)
        if not waiting or free + self._limits.reserved_seqs <= 0:
            return None
        if only_light or free <= 0:
            urgent = min(tenant.queue[0].priority for tenant in waiting)
            waiting = [t for t in waiting if t.queue[0].priority == urgent]
            waiting = [t for t in waiting if self._reserve.is_light(t)]
        return min(waiting, key=lambda t: (t.queue[0].priority, t.served), default=None)

    def _steps_until_fit(self, request: Request) -> int:
        """Return 0 if a request fits, otherwise after how many steps to try again."""
        if not self.running:
            # A request may always run alone: vLLM fits any prompt up to max_model_len.
            return 0
        if (steps := self._early(request)) > 0:
            return steps
        # With each step a request needs a token less beside those that run.
        if (excess := self._forecast.excess(request, self._kept_beside(request))) > 0:
            self._full_since = min(self._full_since, self._steps)
        return max(0, excess)

    def _is_crowded(self, request: Request) -> bool:
        """Whether requests wait for the KV cache, and will go on to, not for a place."""
        most = self._forecast.most(request)
        for_long = self._steps - self._full_since >= request.max_tokens // 2
        self._crowded = self._crowded or for_long or self.waiting >= most
        return self._crowded and most < self._limits.max_num_seqs
