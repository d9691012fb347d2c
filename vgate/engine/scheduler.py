"""The batch scheduler: who enters the batch, and when. Pure: no clock, no sockets, no vLLM.

It stands in front of vLLM's continuous batching, whose own waiting queue it keeps empty, so that
the order stays ours:

- *By KV tokens*: a request enters only while the tokens that the batch is expected to hold at its
  fullest fit the KV cache. Past that edge vLLM preempts and recomputes, and throughput collapses.
- *Fair*: each tenant has a virtual token counter; the waiting tenant that was served least, in
  proportion to its weight, is next (Sheng et al., "Fairness in Serving Large Language Models",
  OSDI 2024). Within a tenant it is first come, first served.
- *Urgent first*: what has a lower priority value goes before all that has a higher one, of whatever
  tenant; fairness is among equals, and counts what a tenant got at any priority. So urgent requests
  without end starve the others until these time out. That is what a priority is for, and why a key
  has to be allowed to ask for it. It holds for starting: what runs is never stopped for it.
- *Bounded*: a full queue refuses at once and says when to try again. What an engine that died had
  taken is taken again: its frontends had no more than that engine's queue and batch held.
- *Gathering*: an idle engine that sees a burst waits for the rest of it, as long as its requests
  keep arriving within about a millisecond of each other and at most `max_wait_s`; a lone request
  starts at once. While a batch runs, newcomers join at the next step.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping

import msgspec

from vgate.engine.request import Request, RequestError

# Requests of one burst arrive at most this far apart.
BURST_GAP_S = 0.001
# Expected length of an answer before any has finished; then a moving average of those that have.
_FIRST_ESTIMATE_TOKENS = 256.0
_ESTIMATE_MOMENTUM = 0.95
# An output token costs the engine about twice what a prompt token does (the paper's weights).
_OUTPUT_TOKEN_COST = 2.0
_RETRY_AFTER_MIN_S, _RETRY_AFTER_MAX_S = 1.0, 60.0
_RATE_HALF_LIFE_S = 10.0


class Limits(msgspec.Struct, frozen=True):
    """What the scheduler keeps to.

    Attributes:
        max_num_seqs: Most sequences that run at once.
        kv_cache_tokens: Tokens that the KV cache holds.
        max_queue_size: Most requests that wait.
        max_wait_s: Longest gathering of a burst.
        kv_block_tokens: Tokens of a block of the KV cache; a sequence holds whole blocks.
    """

    max_num_seqs: int
    kv_cache_tokens: int
    max_queue_size: int
    max_wait_s: float
    kv_block_tokens: int = 1


class _Tenant:
    """A tenant's queue and how much it was served, in weighted tokens.

    Tenants are the configured API keys, so they are few and none is ever forgotten.
    """

    __slots__ = ("queue", "served")

    def __init__(self) -> None:
        # The most urgent first, then in order of arrival.
        self.queue: list[Request] = []
        self.served = 0.0


class BatchScheduler:
    """Holds the waiting requests and the account of the running ones."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: dict[str, Request] = {}
        self._arrivals = 0
        self._running: dict[str, Request] = {}
        self._estimate_tokens = _FIRST_ESTIMATE_TOKENS
        # How much the tenant had been served that was admitted last: the tenants' common clock.
        self._served_so_far = 0.0
        self._burst_began: float | None = None
        self._last_arrival = float("-inf")
        self._finished_weight = 0.0
        self._finished_at: float | None = None
        # No queue deadline is earlier than this; spares a walk over the queue at every step.
        self._next_deadline = math.inf

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        return len(self._waiting)

    @property
    def running(self) -> Mapping[str, Request]:
        """Requests in the batch, by key."""
        return self._running

    def submit(self, request: Request, now: float) -> None:
        """Queue a request.

        Raises:
            RequestError: The queue is full.
        """
        if len(self._waiting) >= self._limits.max_queue_size and not request.resumed:
            reason = f"the queue is full ({self._limits.max_queue_size} requests)"
            raise RequestError("overloaded", reason, retry_after_s=self.retry_after_s())
        tenant = self._tenants.get(request.tenant)
        if tenant is None:
            tenant = self._tenants[request.tenant] = _Tenant()
        if not tenant.queue:
            # A tenant that comes back after a pause gets no credit for it: it starts level with
            # the least served of those that are here, waiting or running.
            running = {r.tenant for r in self._running.values()}
            active = [t.served for n, t in self._tenants.items() if t.queue or n in running]
            # If nobody is, it starts where service had got to.
            tenant.served = max(tenant.served, min(active, default=self._served_so_far))
        if not self._running:
            # Two arrivals close together make a burst; its begin bounds the gathering. A lone
            # request starts at once: the next one of a client that was answered is none either.
            if not self._waiting or now - self._last_arrival > BURST_GAP_S:
                self._burst_began = None
            elif self._burst_began is None:
                self._burst_began = self._last_arrival
        self._arrivals += 1
        request.order = self._arrivals
        insort(tenant.queue, request, key=_turn)
        self._waiting[request.key] = request
        self._next_deadline = min(self._next_deadline, request.queue_deadline)
        self._last_arrival = now

    def hasten(self, request: Request, priority: int) -> None:
        """Raise a request to a priority, if it waits at a less urgent one."""
        if request.key in self._waiting and priority < request.priority:
            queue = self._tenants[request.tenant].queue
            queue.remove(request)
            request.priority = priority
            insort(queue, request, key=_turn)

    def gather_s(self, now: float) -> float:
        """Seconds that an idle engine should still wait for more of a burst; 0 to start now."""
        if self._running or self._burst_began is None:
            return 0.0
        if len(self._waiting) >= self._limits.max_num_seqs:
            return 0.0
        gap_ends = self._last_arrival + BURST_GAP_S
        return max(0.0, min(gap_ends, self._burst_began + self._limits.max_wait_s) - now)

    def admit(self, now: float) -> list[Request]:
        """Take out of the queue what enters the batch now, in order."""
        if not self._waiting or self.gather_s(now) > 0:
            return []
        self._burst_began = None
        if len(self._running) >= self._limits.max_num_seqs:
            # The usual state of a busy engine, asked after every step.
            return []
        admitted = []
        committed = sum(map(self._expected_kv_tokens, self._running.values()))
        while self._waiting and len(self._running) < self._limits.max_num_seqs:
            tenant = self._next_tenant()
            request = tenant.queue[0]
            expected = self._expected_kv_tokens(request)
            # A request alone may always run: vLLM fits any prompt up to max_model_len.
            if self._running and committed + expected > self._limits.kv_cache_tokens:
                break
            committed += expected
            self._served_so_far = max(self._served_so_far, tenant.served)
            del tenant.queue[0]
            del self._waiting[request.key]
            self._running[request.key] = request
            request.reserved_tokens = self._expected_tokens(request)
            answer = request.reserved_tokens - len(request.prompt)
            tenant.served += self._cost(request, answer)
            admitted.append(request)
        return admitted

    def finish(self, request: Request, now: float) -> None:
        """Take a running request that ended out of the account."""
        if self._running.pop(request.key, None) is None:
            return
        self._finished_weight = self._decayed_rate(now) + 1.0
        self._finished_at = now
        generated = request.generated_tokens
        self._estimate_tokens += (1 - _ESTIMATE_MOMENTUM) * (generated - self._estimate_tokens)
        self._settle(request)

    def cancel(self, key: str) -> Request | None:
        """Take out a request that waits or runs, without counting it as finished."""
        if request := self._waiting.pop(key, None):
            self._tenants[request.tenant].queue.remove(request)
            return request
        if request := self._running.pop(key, None):
            self._settle(request)
        return request

    def expire(self, now: float) -> list[Request]:
        """Take out the waiting requests whose time to be started is over."""
        if now < self._next_deadline:
            return []
        late = [request for request in self._waiting.values() if request.queue_deadline <= now]
        for request in late:
            self.cancel(request.key)
        deadlines = (request.queue_deadline for request in self._waiting.values())
        self._next_deadline = min(deadlines, default=math.inf)
        return late

    @property
    def next_deadline(self) -> float:
        """A time before which no queue deadline passes; infinity if none waits."""
        return self._next_deadline

    def retry_after_s(self) -> float:
        """Seconds until the queue has probably drained, from the rate at which requests finish."""
        # A steady rate r gives a weight of r * half-life / ln 2.
        rate = self._finished_weight * math.log(2) / _RATE_HALF_LIFE_S
        seconds = len(self._waiting) / rate if rate else _RETRY_AFTER_MIN_S
        return min(_RETRY_AFTER_MAX_S, max(_RETRY_AFTER_MIN_S, seconds))

    def _settle(self, request: Request) -> None:
        """Charge a request for what it really took instead of what was expected of it."""
        expected = request.reserved_tokens - len(request.prompt)
        taken = self._cost(request, request.generated_tokens)
        self._tenants[request.tenant].served += taken - self._cost(request, expected)

    def _next_tenant(self) -> _Tenant:
        waiting = (tenant for tenant in self._tenants.values() if tenant.queue)
        return min(waiting, key=lambda tenant: (tenant.queue[0].priority, tenant.served))

    def _expected_kv_tokens(self, request: Request) -> int:
        """Room in the KV cache that a request will probably take, in whole blocks."""
        block = self._limits.kv_block_tokens
        return math.ceil(self._expected_tokens(request) / block) * block

    def _expected_tokens(self, request: Request) -> int:
        """Tokens that a request will probably have at its end, at least what it has now."""
        answer = min(request.max_tokens, int(self._estimate_tokens))
        return len(request.prompt) + max(answer, request.generated_tokens)

    @staticmethod
    def _cost(request: Request, output_tokens: int) -> float:
        return (len(request.prompt) + _OUTPUT_TOKEN_COST * output_tokens) / request.weight

    def _decayed_rate(self, now: float) -> float:
        if self._finished_at is None:
            return 0.0
        half_lives = (now - self._finished_at) / _RATE_HALF_LIFE_S
        return self._finished_weight * math.exp2(-half_lives)


def _turn(request: Request) -> tuple[int, int]:
    """Sort key of a tenant's queue."""
    return request.priority, request.order
