"""Gateways with the real router, replicas, and conversations, in simulated time."""

import heapq
import random
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from bench.simulate.replica import BLOCK_TOKENS, NO_SEED, Device, Request
from bench.simulate.replica import Replica as Engine
from bench.simulate.trace import SHARED_TOKENS, Trace, Turn, following
from vgate.config.schema import Routing
from vgate.frontend.routing import Replica, Router
from vgate.wire.codec import decode_to_frontend, encode
from vgate.wire.kv_blocks import KvBlocks, block_keys, pack_keys
from vgate.wire.messages import Generate
from vgate.wire.parameters import DEFAULTS

HEARTBEAT_S = 0.25
# Until a replica that died has loaded its model again.
RESTART_S = 30.0


class Plan(NamedTuple):
    """What is simulated.

    Attributes:
        rate: Requests in a second for each replica.
        seconds: How long; the first fifth is not measured.
        kill_every_s: One replica dies so often; 0 for never.
    """

    replicas: int
    gateways: int
    policy: str = "prefix_aware"
    rate: float = 2.0
    seconds: float = 100.0
    kill_every_s: float = 0.0
    seed: int = 1
    device: Device = Device()


class Outcome(NamedTuple):
    """What came of it, after the start.

    Attributes:
        hits: The part of the prompts' tokens that was cached.
        could_hit: The part that had been in an earlier prompt.
        decision_us: CPU time of a decision and its account, mean.
        reports_per_s, report_bytes_per_s: Messages on blocks, of all replicas to one gateway.
        report_us: A gateway's CPU time for one of them, mean.
        router_bytes: What a gateway's tables take.
    """

    requests_per_s: float
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    hits: float
    could_hit: float
    decision_us: float
    reports_per_s: float
    report_bytes_per_s: float
    report_us: float
    router_bytes: int
    moved: int


class _Gateway:
    def __init__(self, world: "World", number: int) -> None:
        settings = Routing(policy=world.plan.policy)  # type: ignore[arg-type]
        self.router = Router(settings, lambda: world.now, number)
        self.replicas = [Replica(str(n)) for n in range(world.plan.replicas)]
        self.up = self.replicas[:]
        for replica in self.replicas:
            replica.max_num_seqs = world.plan.device.max_num_seqs
            self.begin(replica)

    def begin(self, replica: Replica) -> None:
        """Take over a replica that has nothing yet."""
        if self.router.reads_prefixes:
            self.router.blocks(replica, KvBlocks(1, BLOCK_TOKENS, reset=True))


class World:
    """The simulated time, and everything in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.now = plan, 0.0
        self._trace, self._random = Trace(plan.seed), random.Random(plan.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.gateways = [_Gateway(self, number) for number in range(plan.gateways)]
        # All are told the same at the same time, so one table serves them all here.
        self._told = self.gateways[0].router.index
        for gateway in self.gateways:
            gateway.router.index._stored = self._told._stored  # noqa: SLF001
        self.engines = [self._engine(number) for number in range(plan.replicas)]
        self._forget_counts()

    def run(self) -> Outcome:
        """Run it."""
        plan = self.plan
        self._arrive()
        self._beat()
        if plan.kill_every_s:
            self.after(plan.kill_every_s, self._kill)
        self.after(plan.seconds / 5, self._forget_counts)
        while self.now < plan.seconds:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self._outcome(plan.seconds * 4 / 5)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Schedule an event."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def _engine(self, number: int) -> Engine:
        return Engine(
            self.plan.device,
            self.after,
            lambda stored, removed: self._report(number, stored, removed),
            self._started,
            self._ended,
        )

    def _forget_counts(self) -> None:
        self._ttft_s: list[float] = []
        self._requests = self._moved = 0
        self._could_hit = self._prompts = 0
        self._decision_s = self._report_s = 0.0
        self._decisions = self._reports = self._report_bytes = 0
        for engine in self.engines:
            engine.cached = engine.computed = engine.generated = 0

    def _arrive(self) -> None:
        later = self._trace.is_later(self.now)
        if later:
            self._ask(*self._trace.later())
        elif later is not None:
            self._ask(self._trace.first(), SHARED_TOKENS)
        self.after(self._trace.gap_s(self.plan.rate * self.plan.replicas), self._arrive)

    def _ask(self, turn: Turn, known_tokens: int) -> None:
        self._requests += 1
        self._prompts += turn.tokens
        self._could_hit += known_tokens
        keys = block_keys(turn.prompt, BLOCK_TOKENS, NO_SEED)
        self._send(Request(turn, self.now, keys, None, turn.output))

    def _send(self, request: Request) -> None:
        gateway = self._random.choice(self.gateways)
        message = Generate(0, request.turn.prompt, DEFAULTS)
        began = time.thread_time()
        request.ticket = gateway.router.choose(gateway.up, message)
        self._decision_s += time.thread_time() - began
        self._decisions += 1
        self.engines[int(request.ticket.replica.name)].submit(request)

    def _started(self, request: Request) -> None:
        began = time.thread_time()
        if request.ticket is not None:
            request.ticket.started()
        self._decision_s += time.thread_time() - began
        if not request.ttft_s:
            request.ttft_s = self.now - request.due
            self._ttft_s.append(request.ttft_s)

    def _ended(self, request: Request) -> None:
        began = time.thread_time()
        if request.ticket is not None:
            request.ticket.ended(request.turn.output)
        self._decision_s += time.thread_time() - began
        if (after := following(request.turn)) is not None:
            pause_s, turn = after
            known = request.turn.tokens + request.turn.output - 1
            self.after(pause_s, lambda: self._ask(turn, known))

    def _report(self, number: int, stored: list[int], removed: list[int]) -> None:
        for gateway in self.gateways:
            replica = gateway.replicas[number]
            if not replica.next_number:
                continue
            if gateway.router.index is not self._told:
                replica.next_number += 1
                continue
            packed = pack_keys(stored), pack_keys(removed)
            payload = encode(KvBlocks(replica.next_number, BLOCK_TOKENS, *packed))
            began = time.thread_time()
            gateway.router.blocks(replica, decode_to_frontend(payload))
            self._report_s += time.thread_time() - began
            self._reports += 1
            self._report_bytes += len(payload)

    def _beat(self) -> None:
        for number, engine in enumerate(self.engines):
            status = engine.status()
            for gateway in self.gateways:
                gateway.replicas[number].hear(status)
        self.after(HEARTBEAT_S, self._beat)

    def _kill(self) -> None:
        """Let a replica die, unless it is the last one; its requests go on in others at once."""
        self.after(self.plan.kill_every_s, self._kill)
        if len(self.gateways[0].up) == 1:
            return
        number = int(self._random.choice(self.gateways[0].up).name)
        lost = self.engines[number].die()
        for request in lost:
            if request.ticket is not None:
                request.ticket.ended()
        for gateway in self.gateways:
            replica = gateway.replicas[number]
            gateway.up.remove(replica)
            gateway.router.forget(replica)
            replica.breaker.died()
        for request in lost:
            self._send(request)
        self._moved += len(lost)
        self.after(RESTART_S, lambda: self._come_back(number))

    def _come_back(self, number: int) -> None:
        for gateway in self.gateways:
            replica = gateway.replicas[number]
            gateway.up.append(replica)
            gateway.begin(replica)

    def _outcome(self, seconds: float) -> Outcome:
        times = sorted(self._ttft_s)
        cached = sum(engine.cached for engine in self.engines)
        computed = sum(engine.computed for engine in self.engines)
        return Outcome(
            self._requests / seconds,
            sum(engine.generated for engine in self.engines) / seconds,
            times[len(times) // 2],
            times[len(times) * 99 // 100],
            cached / (cached + computed),
            self._could_hit / self._prompts,
            self._decision_s / self._decisions * 1e6,
            self._reports / seconds,
            self._report_bytes / seconds,
            self._report_s / max(1, self._reports) * 1e6,
            _bytes_of(self.gateways[0].router),
            self._moved,
        )


def _bytes_of(router: Router) -> int:
    """Return what a router's tables take, with the numbers in them."""
    index, total = router.index, 0
    for table in (index._stored, index._sent, index._forks):  # noqa: SLF001
        total += sys.getsizeof(table) + sum(map(sys.getsizeof, table))
        total += sum(sys.getsizeof(value) for value in {id(v): v for v in table.values()}.values())
    return total
