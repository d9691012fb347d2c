"""Routing policies: which of several replicas runs a request."""

import random
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from vgate.config.schema import Routing
from vgate.frontend.routing.prefix_index import Found
from vgate.frontend.routing.replica import Replica

# A replica that has less of a prompt is not worth waiting for.
_STICK_SHARE = 0.8
# Replicas whose loads differ by less than this are equal: what a frontend knows of the others'
# requests is as old as a heartbeat (0.25 s), and a request that several send must find the same
# replica. So much prefill is not noticed, and so many tokens are the output of a few requests.
_NEAR_S = 1 / 16
_NEAR_TOKENS = 1024
# As for the parts of a prompt that they have.
_NEAR_PART = 0.1


class Asked(NamedTuple):
    """What matters of a request.

    Attributes:
        tokens: Those of its prompt.
        output: How many tokens it will probably generate.
        equal: What equal requests share; b"" for one that shares nothing.
        identity: A number of that, the same in all processes; 0 for one that shares nothing.
        found: The blocks of it that replicas have; None if the policy doesn't need them.
        keys: The keys of its prompt's blocks, if so.
        block_tokens: Tokens in such a block.
    """

    tokens: int
    output: int
    equal: bytes = b""
    identity: int = 0
    found: Found | None = None
    keys: Sequence[int] = ()
    block_tokens: int = 0

    def uncached(self, replica: Replica) -> int:
        """Return how many of the prompt's tokens a replica has to compute, the last one at least.

        Nobody has the last token's output.
        """
        if self.found is None:
            return self.tokens
        cached = self.found.blocks_of(replica.bit) * self.block_tokens
        return self.tokens - min(cached, self.tokens - 1)

    def price(self, replica: Replica, found: Found) -> int:
        """Return what running it in a replica costs, in tokens to compute.

        What many prompts begin with is computed for the next ones too, which pay their part.
        """
        blocks = found.blocks_of(replica.bit)
        missing = max(0, found.shared - blocks) * self.block_tokens
        return self.uncached(replica) - missing + missing // found.uses


class Policy(Protocol):
    """Chooses between replicas, at least two, and says why in one word.

    Attributes:
        reads_prefixes: Whether it needs to know what is cached.
        compares: Whether it takes the best one, which may be that of some that were drawn.
    """

    reads_prefixes: bool
    compares: bool

    def choose(self, replicas: list[Replica], asked: Asked) -> tuple[Replica, str]:
        """Return the replica and the reason."""


class RoundRobin:
    """Each replica in turn."""

    reads_prefixes = compares = False

    def __init__(self, _settings: Routing, _random: random.Random) -> None:
        self._turn = -1

    def choose(self, replicas: list[Replica], _asked: Asked) -> tuple[Replica, str]:
        """Return the next one."""
        self._turn += 1
        return replicas[self._turn % len(replicas)], "turn"


class LeastLoaded:
    """The replica with the fewest outstanding tokens, whatever is in its cache."""

    reads_prefixes = False
    compares = True

    def __init__(self, _settings: Routing, randomness: random.Random) -> None:
        self._random = randomness

    def choose(self, replicas: list[Replica], asked: Asked) -> tuple[Replica, str]:
        """Return one of the least loaded."""
        costs = [(replica.outstanding, replica) for replica in replicas]
        return _one_of(_nearest(costs), asked, self._random), "load"


class PrefixAware:
    """The replica that has the most of the prompt, until waiting for it costs more than it saves.

    A conversation stays where it is while that replica has less than `max_prefill_wait_s` of
    prefill to do. Otherwise, and for a prompt whose cached part is no conversation but what many
    prompts begin with, the replica that will have the fewest tokens to compute.
    """

    reads_prefixes = compares = True

    def __init__(self, settings: Routing, randomness: random.Random) -> None:
        self._max_wait_s = settings.max_prefill_wait_s
        self._random = randomness

    def choose(self, replicas: list[Replica], asked: Asked) -> tuple[Replica, str]:
        """Return the replica and the reason."""
        if (found := asked.found) is None:
            prices = dict.fromkeys(replicas, asked.tokens)
        elif (home := self._home(replicas, asked, found)) is not None:
            return home, "prefix"
        else:
            prices = {replica: asked.price(replica, found) for replica in replicas}
        near = _nearest(
            [(replica.outstanding + price, replica) for replica, price in prices.items()]
        )
        if len(near) > 1:
            least = min(prices[replica] for _, replica in near) + asked.tokens * _NEAR_PART
            near = [each for each in near if prices[each[1]] <= least]
        return _one_of(near, asked, self._random), "load"

    def _home(self, replicas: list[Replica], asked: Asked, found: Found) -> Replica | None:
        """Return the replica that has the conversation, if there is one and it isn't too busy."""
        most = found.most
        cached = most * asked.block_tokens
        if most <= found.shared or cached < asked.tokens * _STICK_SHARE:
            return None
        homes = found.falls[-1][0]
        able = [replica for replica in replicas if replica.bit & homes]
        if not able:
            return None
        home = min(able, key=attrgetter("to_prefill"))
        return home if home.to_prefill <= home.rate * self._max_wait_s else None


_Costs = list[tuple[int, Replica]]


def _nearest(costs: _Costs) -> _Costs:
    """Return those that are as good as the best one."""
    least, best = costs[0]
    for cost, replica in costs:
        if cost < least:
            least, best = cost, replica
    limit = least + min(best.rate * _NEAR_S, _NEAR_TOKENS)
    return [each for each in costs if each[0] <= limit]


def _one_of(near: _Costs, asked: Asked, randomness: random.Random) -> Replica:
    """Return the replica of those that all frontends choose, or the better one of two."""
    if len(near) == 1:
        return near[0][1]
    if identity := asked.identity:
        # Rendezvous hashing. The hash of numbers is the same in all processes.
        return max(near, key=lambda each: hash((identity, each[1].mark)))[1]
    first, second = randomness.sample(near, 2)
    return second[1] if second[0] < first[0] else first[1]


POLICIES: dict[str, Callable[[Routing, random.Random], Policy]] = {
    "prefix_aware": PrefixAware,
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
}
