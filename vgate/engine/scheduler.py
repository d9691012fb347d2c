"""The batch scheduler decides which requests enter the batch and when. Pure: no clock, no sockets.

It stands before vLLM's continuous batching and keeps vLLM's own waiting queue empty, so that it
alone decides the order:

- *KV tokens*: a request is admitted only while the tokens that the batch is expected to hold at its
  peak fit the KV cache. Beyond that, vLLM preempts and recomputes, and throughput collapses.
- *Fairness*: the waiting tenant that was served the fewest tokens, in proportion to its weight, is
  next (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). Within a tenant,
  requests start in order of arrival.
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

import msgspec

from vgate.engine.request import Request, RequestError

# Requests of one burst arrive at most this far apart.
BURST_GAP_S = 0.001
# Expected output tokens before any request has finished; then a moving average is used.
_FIRST_ESTIMATE_TOKENS = 256.0
_ESTIMATE_MOMENTUM = 0.95
# An output token costs the engine about twice as much as a prompt token (the paper's weights).
_OUTPUT_TOKEN_COST = 2.0
_RETRY_AFTER_MIN_S, _RETRY_AFTER_MAX_S = 1.0, 60.0
_RATE_HALF_LIFE_S = 10.0
# Prompt tokens that start in one turn while others run: what a backend does to start a sequence
# (vLLM hashes the prompt's blocks) takes 0.1 to 0.2 us a token, and 0.1 ms for the shortest prompt.
_TURN_TOKENS, _LEAST_TOKENS = 8192, 512


class Limits(msgspec.Struct, frozen=True):
    """The scheduler's limits.

    Attributes:
        max_num_seqs: Most requests that run at once.
        max_batch_size: A burst starts as soon as so many wait.
        max_wait_s: The longest time to gather a burst.
    """

    max_num_seqs: int
    kv_cache_tokens: int
    max_queue_size: int
    max_wait_s: float
    kv_block_tokens: int = 1
    max_batch_size: int = 8


class _Tenant:
    """A tenant's queue, and how much it was served in weighted tokens.

    Tenants are the configured API keys, so they are few and are kept forever.
    """

    def __init__(self) -> None:
        # By priority, then by arrival.
        self.queue: list[Request] = []
        self.served = 0.0


class BatchScheduler:
    """Holds the waiting requests, and the `running` ones by key with what each has reserved."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._waiting: dict[str, Request] = {}
        self._arrivals = 0
        self.running: dict[str, Request] = {}
        self._estimate_tokens = _FIRST_ESTIMATE_TOKENS
        # How much the last admitted tenant had been served: the tenants' common clock.
        self._served_so_far = 0.0
        self._burst_began: float | None = None
        self._last_arrival = float("-inf")
        self._finished_weight = 0.0
        self._finished_at: float | None = None
        # No queue deadline is earlier, so `expire` need not walk over the queue at every step.
        self.next_deadline = math.inf

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._waiting)

    def submit(self, request: Request, now: float) -> None:
        """Queue a request; raise RequestError if the queue is full."""
        if len(self._waiting) >= self._limits.max_queue_size and not request.resumed:
            reason = f"the queue is full ({self._limits.max_queue_size} requests)"
            raise RequestError("overloaded", reason, retry_after_s=self.retry_after_s())
        tenant = self._tenants[request.tenant]
        if not tenant.queue:
            # A pause gives no credit: the tenant starts level with the least served one that has a
            # request, waiting or running; if there is none, at the common clock.
            running = {r.tenant for r in self.running.values()}
            active = [t.served for n, t in self._tenants.items() if t.queue or n in running]
            tenant.served = max(tenant.served, min(active, default=self._served_so_far))
        if not self.running:
            # Two arrivals close together make a burst, whose start bounds the gathering. A lone
            # request starts at once, and so does the next one of a client just answered.
            if not self._waiting or now - self._last_arrival > BURST_GAP_S:
                self._burst_began = None
            elif self._burst_began is None:
                self._burst_began = self._last_arrival
        self._arrivals += 1
        request.order = self._arrivals
        insort(tenant.queue, request, key=_queue_order)
        self._waiting[request.key] = request
        self.next_deadline = min(self.next_deadline, request.queue_deadline)
        self._last_arrival = now

    def raise_priority(self, request: Request, priority: int) -> None:
        """Give a request a priority, if it waits and its own is less urgent."""
        if request.key in self._waiting and priority < request.priority:
            queue = self._tenants[request.tenant].queue
            queue.remove(request)
            request.priority = priority
            insort(queue, request, key=_queue_order)

    def gather_s(self, now: float) -> float:
        """Return the seconds that an idle engine should still gather a burst; 0 to start now."""
        if self.running or self._burst_began is None:
            return 0.0
        if len(self._waiting) >= self._limits.max_batch_size:
            return 0.0
        gap_ends = self._last_arrival + BURST_GAP_S
        return max(0.0, min(gap_ends, self._burst_began + self._limits.max_wait_s) - now)

    def admit(self, now: float) -> list[Request]:
        """Move requests from the queue to the batch; return them in order.

        While others generate, those of a burst start over several turns, with a step after each.
        """
        if not self._waiting or self.gather_s(now) > 0:
            return []
        self._burst_began = None
        if len(self.running) >= self._limits.max_num_seqs:
            # The usual state of a busy engine; this is called after every step.
            return []
        admitted = []
        committed = sum(map(self._expected_kv_tokens, self.running.values()))
        left_tokens = _TURN_TOKENS if self.running else math.inf
        while self._waiting and len(self.running) < self._limits.max_num_seqs and left_tokens > 0:
            tenant = self._next_tenant()
            request = tenant.queue[0]
            expected = self._expected_kv_tokens(request)
            # A request may always run alone: vLLM fits any prompt up to max_model_len.
            if self.running and committed + expected > self._limits.kv_cache_tokens:
                break
            committed += expected
            self._served_so_far = max(self._served_so_far, tenant.served)
            del tenant.queue[0]
            del self._waiting[request.key]
            self.running[request.key] = request
            request.reserved_tokens = self._expected_tokens(request)
            output_tokens = request.reserved_tokens - len(request.prompt)
            tenant.served += self._cost(request, output_tokens)
            admitted.append(request)
            if request.sampling is not None:
                left_tokens -= max(len(request.prompt), _LEAST_TOKENS)
        return admitted

    def finish(self, request: Request, now: float) -> None:
        """Remove a running request that is complete."""
        if self.running.pop(request.key, None) is None:
            return
        self._finished_weight = self._decayed_rate(now) + 1.0
        self._finished_at = now
        generated = request.generated_tokens
        self._estimate_tokens += (1 - _ESTIMATE_MOMENTUM) * (generated - self._estimate_tokens)
        self._settle(request)

    def remove(self, key: str) -> Request | None:
        """Remove a waiting or running request, without counting it as finished."""
        if request := self._waiting.pop(key, None):
            self._tenants[request.tenant].queue.remove(request)
            return request
        if request := self.running.pop(key, None):
            self._settle(request)
        return request

    def expire(self, now: float) -> list[Request]:
        """Remove the waiting requests whose queue deadline has passed; return them."""
        if now < self.next_deadline:
            return []
        expired = [request for request in self._waiting.values() if request.queue_deadline <= now]
        for request in expired:
            self.remove(request.key)
        deadlines = (request.queue_deadline for request in self._waiting.values())
        self.next_deadline = min(deadlines, default=math.inf)
        return expired

    def retry_after_s(self) -> float:
        """Estimate the seconds until the queue is empty, from the rate at which requests finish."""
        # A steady rate r gives a weight of r * half-life / ln 2.
        rate = self._finished_weight * math.log(2) / _RATE_HALF_LIFE_S
        seconds = len(self._waiting) / rate if rate else _RETRY_AFTER_MIN_S
        return min(_RETRY_AFTER_MAX_S, max(_RETRY_AFTER_MIN_S, seconds))

    def _settle(self, request: Request) -> None:
        """Charge a tenant for the tokens that a request used instead of the reserved ones."""
        expected = request.reserved_tokens - len(request.prompt)
        used = self._cost(request, request.generated_tokens)
        self._tenants[request.tenant].served += used - self._cost(request, expected)

    def _next_tenant(self) -> _Tenant:
        waiting = (tenant for tenant in self._tenants.values() if tenant.queue)
        return min(waiting, key=lambda tenant: (tenant.queue[0].priority, tenant.served))

    def _expected_kv_tokens(self, request: Request) -> int:
        """Return the KV tokens that a request will probably need, in whole blocks."""
        block = self._limits.kv_block_tokens
        return math.ceil(self._expected_tokens(request) / block) * block

    def _expected_tokens(self, request: Request) -> int:
        """Return the tokens that a request will probably have at its end."""
        output_tokens = min(request.max_tokens, int(self._estimate_tokens))
        return len(request.prompt) + max(output_tokens, request.generated_tokens)

    @staticmethod
    def _cost(request: Request, output_tokens: int) -> float:
        return (len(request.prompt) + _OUTPUT_TOKEN_COST * output_tokens) / request.weight

    def _decayed_rate(self, now: float) -> float:
        if self._finished_at is None:
            return 0.0
        half_lives = (now - self._finished_at) / _RATE_HALF_LIFE_S
        return self._finished_weight * math.exp2(-half_lives)


def _queue_order(request: Request) -> tuple[int, int]:
    """Return the sort key of a tenant's queue."""
    return request.priority, request.order
