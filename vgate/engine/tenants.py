"""The tenants of an engine: their queues, what each got, and what is kept for light ones. Pure.

A light tenant is one that holds little or nothing. Its next request should not have to wait until
one of the answers ends with which others fill the batch or the KV cache.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from vgate.engine.request import Request

# An output token costs the engine about twice as much as a prompt token (the paper's weights).
_OUTPUT_TOKEN_COST = 2.0
# At most this part of the places, and of the KV cache, is reserved. Of the latter only while there
# was such a tenant within this time.
_RESERVED_PART = 8
_MOST_RESERVED_SEQS = 16
_REMEMBERED_S = 60.0
# Prompts that wait take up to 40 bytes a token, which many long ones would fill the memory with.
# They are added up where the new one is that long that as many like it would be too many.
_MOST_QUEUED_TOKENS = 2**24
# A request that waits is passed by none that arrived after so many others. So it starts at last,
# however wrong the forecasts are by which it should not have been delayed.
_MOST_PASSING = 64
# Requests that are tried in the place of one that doesn't fit. The more run, the longer a try takes
# and the less room is left: the second number by the square of how many run, none beside over 64.
_MOST_TRIED, _TRIED_TIMES = 16, 4096


def reserved_seqs(max_num_seqs: int) -> int:
    """Return how many places to reserve beyond `max_num_seqs`."""
    return min(_MOST_RESERVED_SEQS, max_num_seqs // _RESERVED_PART)


def queue_full_of(
    waiting: Collection[Request], own: Collection[Request], request: Request, most: int
) -> str:
    """Return what a queue is full of, so that a request has no room in it; "" if it has.

    A tenant may take at most as much as it leaves to the others: one alone gets half of the queue,
    and however much it sends, there is room for the next tenant.

    Args:
        waiting: All that wait.
        own: Those of them that are the request's tenant's; none without tenants.
        request: The new one.
        most: How many may wait.
    """
    if len(waiting) >= most:
        return f"{most} requests"
    if len(waiting) + len(own) >= most:
        return f"{len(own)} requests of this API key"
    tokens = len(request.prompt)
    if tokens * most > _MOST_QUEUED_TOKENS and waiting:
        tokens += sum([len(other.prompt) for other in waiting])
        held = sum([len(other.prompt) for other in own])
        if tokens > _MOST_QUEUED_TOKENS:
            return f"{_MOST_QUEUED_TOKENS:,} prompt tokens"
        if tokens + held > _MOST_QUEUED_TOKENS:
            return f"{held:,} prompt tokens of this API key"
    return ""


class Tenant:
    """A tenant's queue, and how much it was served in weighted tokens.

    Tenants are the configured API keys, so they are few and are kept forever.

    Attributes:
        queue: By priority, then by arrival.
        running: How many of its requests run; `held_tokens` are the KV tokens that they will need.
        last_arrival: When it last sent a request; `last_tokens` is what one needed.
    """

    def __init__(self) -> None:
        self.queue: list[Request] = []
        self.served = 0.0
        self.weight = 1.0
        self.running = self.held_tokens = 0
        self.last_arrival = -math.inf
        self.last_tokens = 0


class Reserve:
    """What only light tenants may have: places beyond the usual ones, a part of the KV cache."""

    def __init__(self, seqs: int, kv_cache_tokens: int, tenants: Mapping[str, Tenant]) -> None:
        self._seqs = seqs
        self._tokens = kv_cache_tokens // _RESERVED_PART
        self._tenants = tenants

    def is_light(self, tenant: Tenant) -> bool:
        """Whether a tenant holds less than its share, by weight, of what is reserved."""
        if not tenant.running:
            return True
        sharing = [
            other
            for other in self._tenants.values()
            if 0 < other.running < self._seqs and other.held_tokens < self._tokens
        ]
        if tenant not in sharing:
            return False
        share = tenant.weight / sum(other.weight for other in sharing)
        return tenant.running < self._seqs * share and tenant.held_tokens < self._tokens * share

    def is_shared(self, now: float) -> bool:
        """Whether several tenants have sent requests within the last minute."""
        recent = (now - one.last_arrival < _REMEMBERED_S for one in self._tenants.values())
        return sum(recent) > 1

    def tokens_beside(self, tenant: Tenant, now: float) -> int:
        """Return the KV tokens to keep for the next request of a light tenant beside this one.

        A light one leaves nothing.
        """
        if self.is_light(tenant):
            return 0
        others = [
            other.last_tokens
            for other in self._tenants.values()
            if other is not tenant
            and now - other.last_arrival < _REMEMBERED_S
            and self.is_light(other)
        ]
        return min(max(others, default=0), self._tokens)


def behind(tenants: Iterable[Tenant], first: Request, running: int) -> list[Request]:
    """Return the requests to try in the place of the first one: as urgent, in fair order."""
    most = min(_MOST_TRIED, _TRIED_TIMES // running**2)
    found = [
        (place, tenant.served, request.order, request)
        for tenant in tenants
        for place, request in enumerate(islice(tenant.queue, most + 1))
        if request.priority == first.priority
        and request is not first
        and request.order - first.order <= _MOST_PASSING
    ]
    return [request for *_, request in sorted(found)[:most]]


def cost(request: Request, output_tokens: int) -> float:
    """Return what a tenant is charged for a request with so many output tokens."""
    return (len(request.prompt) + _OUTPUT_TOKEN_COST * output_tokens) / request.weight


def queue_order(request: Request) -> tuple[int, int]:
    """Return the sort key of a tenant's queue."""
    return request.priority, request.order
