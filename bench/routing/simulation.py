"""Replicas in memory, in simulated time, that the real router chooses between.

A replica computes prompts one after the other and generates for all its sequences at once. Its KV
cache keeps the blocks that were used last, and it reports them as an engine does.
"""

import heapq
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from bench.paced_device.device import Device
from vgate.config.schema import Routing
from vgate.frontend.routing import Replica, Router, Ticket
from vgate.wire.codec import pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, block_keys, block_seed, pack_keys
from vgate.wire.messages import Generate, Status
from vgate.wire.parameters import DEFAULTS
from vgate.wire.stats import Load

BLOCK_TOKENS = 64
_HEARTBEAT_S = 0.25
_SEED = block_seed("", "")


class Workload(NamedTuple):
    """Conversations with long system prompts, each turn after a pause.

    Attributes:
        systems: How many system prompts there are; the conversations take them in turn.
        pause_s: Mean time between an answer and the next turn; the first ones are spread over it.
    """

    conversations: int = 50
    turns: int = 8
    systems: int = 10
    system_tokens: int = 4000
    turn_tokens: int = 100
    output_tokens: int = 150
    pause_s: float = 2.0


class Machine(NamedTuple):
    """What each replica can do."""

    prefill_tokens_per_s: float = 20_000
    inter_token_s: float = 0.02
    kv_cache_tokens: int = 131_072
    max_num_seqs: int = 64


MACHINE = Machine()


def machine_of(device: Device) -> Machine:
    """Return a replica on a device. Reading a sequence's KV cache takes it no time."""
    return MACHINE._replace(
        prefill_tokens_per_s=1e6 / device.prompt_token_us, inter_token_s=device.base_us / 1e6
    )


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        hits: The part of all prompt tokens that was cached.
        work: Tokens that each replica has computed and generated.
        ttft_s: Of each request, in order.
    """

    hits: float
    prefilled: int
    work: list[int]
    ttft_s: list[float]
    seconds: float

    @property
    def imbalance(self) -> float:
        """How much more than the mean the busiest replica has done."""
        return max(self.work) * len(self.work) / sum(self.work)

    @property
    def median_ttft_s(self) -> float:
        """The median time to the first token."""
        return sorted(self.ttft_s)[len(self.ttft_s) // 2]


class _Request(NamedTuple):
    prompt: list[int]
    keys: list[int]
    output: list[int]
    done: Callable[[], None]
    ticket: Ticket | None
    sent: float


class _Engine:
    """A replica's engine."""

    def __init__(self, world: "_World", number: int) -> None:
        self._world, self._machine = world, world.machine
        self.number = number
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._queue: list[_Request] = []
        self._computing = 0
        self._generating = 0
        self.work = self.prefilled = 0

    def submit(self, request: _Request) -> None:
        self._queue.append(request)
        self._next()

    def status(self) -> Status:
        """Return the heartbeat."""
        waiting = self._computing + sum(self._uncached(request) for request in self._queue)
        output = self._world.load.output_tokens
        load = Load(waiting, output * self._generating, self._machine.prefill_tokens_per_s)
        running = self._generating + (self._computing > 0)
        return Status(running, len(self._queue), 0.0, load=load)

    def _next(self) -> None:
        if self._computing or not self._queue or self._generating >= self._machine.max_num_seqs:
            return
        request = self._queue.pop(0)
        self._computing = self._uncached(request)
        self.prefilled += self._computing
        self.work += self._computing + len(request.output)
        self._store(request.keys)
        seconds = self._computing / self._machine.prefill_tokens_per_s
        self._world.after(seconds, lambda: self._first_token(request))

    def _uncached(self, request: _Request) -> int:
        cached = next((n for n, key in enumerate(request.keys) if key not in self._blocks), 1 << 60)
        return len(request.prompt) - min(cached * BLOCK_TOKENS, len(request.prompt) - 1)

    def _first_token(self, request: _Request) -> None:
        self._computing = 0
        self._generating += 1
        self._world.ttft_s.append(self._world.now - request.sent)
        if request.ticket is not None:
            request.ticket.started()
        self._world.after(
            len(request.output) * self._machine.inter_token_s, lambda: self._end(request)
        )
        self._next()

    def _end(self, request: _Request) -> None:
        self._generating -= 1
        tokens = pack_token_ids([*request.prompt, *request.output[:-1]])
        self._store(block_keys(tokens, BLOCK_TOKENS, _SEED))
        if request.ticket is not None:
            request.ticket.ended(len(request.output))
        request.done()
        self._next()

    def _store(self, keys: list[int]) -> None:
        """Keep blocks, the first ones for the longest time, and drop the oldest ones."""
        blocks = self._blocks
        stored = [key for key in keys if key not in blocks]
        for key in reversed(keys):
            blocks[key] = None
            blocks.move_to_end(key)
        removed = []
        while len(blocks) * BLOCK_TOKENS > self._machine.kv_cache_tokens:
            removed.append(blocks.popitem(last=False)[0])
        self._world.report(self.number, stored, removed)


class _Frontend:
    """A frontend's router, and what it knows of the replicas."""

    def __init__(self, world: "_World", policy: str, number: int) -> None:
        settings = Routing(policy=policy)  # type: ignore[arg-type]
        self.router = Router(settings, lambda: world.now, number)
        self.replicas = [Replica(str(each.number)) for each in world.engines]
        for replica in self.replicas:
            replica.max_num_seqs = world.machine.max_num_seqs
            if self.router.reads_prefixes:
                assert self.router.blocks(replica, KvBlocks(1, BLOCK_TOKENS, reset=True))


class _World:
    """The simulated time, and everything in it."""

    def __init__(
        self, load: Workload, machine: Machine, policy: str, replicas: int, frontends: int
    ) -> None:
        self.load, self.machine = load, machine
        self.now = 0.0
        self.ttft_s: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._talking = load.conversations
        self._random = random.Random(7)
        self.engines = [_Engine(self, number) for number in range(replicas)]
        self.frontends = [_Frontend(self, policy, n) for n in range(frontends)]
        self.prompt_tokens = 0

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def report(self, number: int, stored: list[int], removed: list[int]) -> None:
        for frontend in self.frontends:
            replica = frontend.replicas[number]
            if replica.next_number:
                packed = pack_keys(stored), pack_keys(removed)
                message = KvBlocks(replica.next_number, BLOCK_TOKENS, *packed)
                assert frontend.router.blocks(replica, message)

    def run(self) -> None:
        load = self.load
        systems = [self._tokens(load.system_tokens) for _ in range(load.systems)]
        for number in range(load.conversations):
            self._pause(systems[number % load.systems], load.turns)
        self._beat()
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()

    def _beat(self) -> None:
        for frontend in self.frontends:
            for replica, engine in zip(frontend.replicas, self.engines, strict=True):
                replica.hear(engine.status())
        if self._talking:
            self.after(_HEARTBEAT_S, self._beat)

    def _pause(self, history: list[int], turns: int) -> None:
        if not turns:
            self._talking -= 1
            return
        pause_s = self._random.expovariate(1 / self.load.pause_s)
        self.after(pause_s, lambda: self._ask(history, turns))

    def _ask(self, history: list[int], turns: int) -> None:
        prompt = [*history, *self._tokens(self.load.turn_tokens)]
        output = self._tokens(self.load.output_tokens)
        frontend = self._random.choice(self.frontends)
        packed = pack_token_ids(prompt)
        message = Generate(0, packed, DEFAULTS)
        ticket = frontend.router.choose(frontend.replicas, message)
        self.prompt_tokens += len(prompt)
        self.engines[int(ticket.replica.name)].submit(
            _Request(
                prompt,
                block_keys(packed, BLOCK_TOKENS, _SEED),
                output,
                lambda: self._pause([*prompt, *output], turns - 1),
                ticket,
                self.now,
            )
        )

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(100_000) for _ in range(count)]


def run(
    policy: str,
    load: Workload,
    machine: Machine = MACHINE,
    *,
    replicas: int = 4,
    frontends: int = 2,
) -> Outcome:
    """Run a workload. The same arguments have the same outcome."""
    world = _World(load, machine, policy, replicas, frontends)
    world.run()
    prefilled = sum(engine.prefilled for engine in world.engines)
    hits = 1 - prefilled / world.prompt_tokens
    work = [engine.work for engine in world.engines]
    return Outcome(hits, prefilled, work, world.ttft_s, world.now)


def oracle(load: Workload, machine: Machine = MACHINE) -> Outcome:
    """Run a workload with all that any router could know: on one machine that never forgets."""
    boundless = machine._replace(kv_cache_tokens=1 << 60, max_num_seqs=1 << 30)
    return run("round_robin", load, boundless, replicas=1)
