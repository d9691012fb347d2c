"""The router: chooses a replica for each request, and keeps the account of what it sent where."""

import random
from collections import deque
from collections.abc import Callable, Sequence

from vgate.config.schema import Routing
from vgate.frontend.routing.policies import POLICIES, Asked
from vgate.frontend.routing.prefix_index import PrefixIndex
from vgate.frontend.routing.replica import Replica
from vgate.wire.kv_blocks import KvBlocks, block_keys, block_seed, unpack_keys
from vgate.wire.messages import Embed, Generate

_TOKEN_ID_BYTES = 4
# Output tokens of a request, until some have ended.
_USUAL_OUTPUT = 256.0
_OUTPUT_WEIGHT = 0.05
# How long after a request's first token its replica has reported its blocks: it does so many times
# a second, and may be on another host.
_REPORTED_S = 0.25
# Of more replicas so many are drawn, and those that have the most of the prompt are added: the best
# of sixteen is as good as the best of all, for all that is known of them.
_DRAWN = 16


class Ticket:
    """One request in a replica, from its choice to its end.

    Attributes:
        replica: Where it is.
        reason: Why: "only", "equal" (to one that runs there), "prefix", "load" or "turn".
        tokens, cached: Those of its prompt, and how many of them the replica should have.
    """

    __slots__ = (
        "_bit",
        "_decode",
        "_equal",
        "_keys",
        "_prefill",
        "_router",
        "cached",
        "reason",
        "replica",
        "tokens",
    )

    def __init__(self, router: "Router", replica: Replica, reason: str, asked: Asked) -> None:
        self._router: Router | None = router
        self.replica, self.reason = replica, reason
        self.tokens, self._bit = asked.tokens, replica.bit
        # What it will have then, beyond what it has or was sent.
        self._keys = asked.keys[asked.found.blocks_of(replica.bit) :] if asked.found else ()
        self._prefill = asked.uncached(replica)
        self.cached = asked.tokens - self._prefill
        self._decode, self._equal = asked.output, asked.equal
        if self._keys and replica.bit:
            router.index.send(replica.bit, self._keys)
        replica.sequences += 1
        replica.prefill_tokens += self._prefill
        replica.decode_tokens += self._decode

    def started(self) -> None:
        """It has got its first token."""
        if self._router is not None and self._prefill:
            self.replica.breaker.succeeded()
            self._router.will_settle(self._bit, self._keys)
            self._keys = ()
            self._leave_prefill(self._router)

    def finished(self, output: int = 0) -> None:
        """It is complete, with so many tokens."""
        self.started()
        self.ended(output)

    def ended(self, output: int = 0, *, failed: bool = False) -> None:
        """It is not in the replica any more. What comes after this is ignored.

        Args:
            output: The tokens that it has generated.
            failed: The engine ended it by a fault of its own.
        """
        router, self._router = self._router, None
        if router is None:
            return
        self._leave_prefill(router)
        replica = self.replica
        replica.sequences -= 1
        replica.decode_tokens -= self._decode
        router.left(self, self._equal, output, failed=failed)

    def _leave_prefill(self, router: "Router") -> None:
        self.replica.prefill_tokens -= self._prefill
        self._prefill = 0
        if self._keys:
            router.index.settle(self._bit, self._keys)
            self._keys = ()


class Router:
    """Chooses between the replicas of one model for one frontend.

    Args:
        settings: The policy and what it needs.
        clock: Monotonic seconds.
        seed: Different in each frontend, so that not all choose the same of equal ones.

    Attributes:
        index: Which replica has which prefix.
        reads_prefixes: Whether replicas should report their blocks.
    """

    def __init__(self, settings: Routing, clock: Callable[[], float], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._policy = POLICIES[settings.policy](settings, self._random)
        self._clock = clock
        self._block_tokens = 0
        self._output = _USUAL_OUTPUT
        # The requests in flight that others may join.
        self._equals: dict[bytes, list[Ticket]] = {}
        # What was sent and is to be reported until then.
        self._settling: deque[tuple[float, int, Sequence[int]]] = deque()
        self.index = PrefixIndex()
        self.reads_prefixes = self._policy.reads_prefixes

    def choose(self, replicas: list[Replica], message: Generate | Embed) -> Ticket:
        """Choose one of the replicas, at least one, for a request; enter the request there.

        An equal request is where its output can be shared; a replica that is silent gets none, if
        another isn't; one that has failed gets few; and one where it would wait for a place gets
        none if another has a place. Then the policy decides.
        """
        now, settling = self._clock(), self._settling
        while settling and settling[0][0] <= now:
            self.index.settle(*settling.popleft()[1:])
        asked = self._read(message)
        twins = self._equals.get(asked.equal)
        if twins and (twin := twins[-1].replica) in replicas and not twin.is_silent(now):
            replica, reason = twin, "equal"
        else:
            replica, reason = self._decide(replicas, asked, now)
        ticket = Ticket(self, replica, reason, asked)
        if asked.equal:
            self._equals.setdefault(asked.equal, []).append(ticket)
        return ticket

    def _expected(self, message: Generate | Embed) -> int:
        """Return how many tokens a request will probably generate."""
        if isinstance(message, Embed):
            return 0
        most = message.sampling.max_tokens
        if most is None:
            return int(self._output)
        return most if message.sampling.ignore_eos else min(int(self._output), most)

    def _decide(self, replicas: list[Replica], asked: Asked, now: float) -> tuple[Replica, str]:
        if len(replicas) == 1:
            return replicas[0], "only"
        if len(replicas) > 2 * _DRAWN and self._policy.compares:
            replicas = self._drawn(replicas, asked)
        replicas = [r for r in replicas if not r.is_silent(now)] or replicas
        able = [r for r in replicas if not r.is_full and r.breaker.takes(r.sequences, now)]
        if not able:
            able = [r for r in replicas if r.breaker.takes(r.sequences, now)] or replicas
        if len(able) == 1:
            return able[0], "load"
        return self._policy.choose(able, asked)

    def _drawn(self, replicas: list[Replica], asked: Asked) -> list[Replica]:
        """Return some replicas, for an equal request the same ones in all frontends."""
        chance = random.Random(asked.identity) if asked.identity else self._random  # noqa: S311
        drawn = chance.sample(replicas, _DRAWN)
        if asked.found is not None and asked.found.falls:
            homes = asked.found.falls[-1][0]
            if homes.bit_count() <= _DRAWN:
                drawn += [r for r in replicas if r.bit & homes and r not in drawn]
        return drawn

    def _read(self, message: Generate | Embed) -> Asked:
        """Return what matters of a request."""
        prompt, equal, identity, block_tokens = message.prompt, b"", 0, self._block_tokens
        if isinstance(message, Generate):
            prompt += message.generated
            if equal := message.dedup_key:
                identity = hash(int.from_bytes(equal, "little")) or 1
        tokens, output = len(prompt) // _TOKEN_ID_BYTES, self._expected(message)
        if not self.reads_prefixes or not block_tokens or tokens <= block_tokens:
            return Asked(tokens, output, equal, identity)
        if isinstance(message, Generate):
            seed = block_seed(message.options.adapter, message.options.cache_salt)
        else:
            seed = block_seed("", message.cache_salt)
        keys = block_keys(prompt, block_tokens, seed)
        found = self.index.find(keys)
        return Asked(tokens, output, equal, identity, found, keys, block_tokens)

    def will_settle(self, bit: int, keys: Sequence[int]) -> None:
        """Take over the keys of a request that has got its first token."""
        if keys:
            self._settling.append((self._clock() + _REPORTED_S, bit, keys))

    def left(self, ticket: Ticket, equal: bytes, output: int, *, failed: bool) -> None:
        """Take a request's end over from its ticket."""
        if equal and (tickets := self._equals.get(equal)):
            if ticket in tickets:
                tickets.remove(ticket)
            if not tickets:
                del self._equals[equal]
        if output:
            self._output += (output - self._output) * _OUTPUT_WEIGHT
        if failed:
            ticket.replica.breaker.failed(self._clock())

    def blocks(self, replica: Replica, message: KvBlocks) -> bool:
        """Take over what a replica reports; False if its report has a gap: ask for a new one."""
        if message.reset:
            self.forget(replica)
            replica.bit = self.index.join()
        elif message.number != replica.next_number:
            had_none = not replica.next_number
            self.forget(replica)
            return had_none  # It was asked, and its answer is on the way.
        replica.next_number = message.number + 1
        if not message.block_tokens:
            self.forget(replica)
            return True
        self._block_tokens = message.block_tokens
        self.index.store(replica.bit, unpack_keys(message.stored))
        self.index.remove(replica.bit, unpack_keys(message.removed))
        return True

    def forget(self, replica: Replica) -> None:
        """Forget the blocks of a replica that is gone or begins anew."""
        if replica.bit:
            self.index.leave(replica.bit)
        replica.bit = replica.next_number = 0
