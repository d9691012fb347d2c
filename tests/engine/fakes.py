"""A transport in memory, a scripted backend and a clock that only tests move."""

from collections import deque
from collections.abc import Callable

from tests.wire.steps import deltas_of
from vgate.engine.backends.base import BackendCounts, Facts, Output
from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.forecast.limits import Limits
from vgate.engine.loop import EngineLoop
from vgate.engine.request import Request
from vgate.engine.scheduler import BatchScheduler
from vgate.wire.codec import decode_to_frontend, encode, pack_token_ids
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Delta,
    Failure,
    Failures,
    FinishReason,
    Generate,
    Hello,
    ModelInfo,
    Step,
    ToEngine,
    ToFrontend,
)
from vgate.wire.model_files import ModelFiles
from vgate.wire.parameters import DEFAULTS, SamplingParams

MODEL = ModelInfo(["m"], [], 100, 4, 1000, 1, "scripted")


def held_by(scheduler: BatchScheduler) -> list[Request]:
    """Return everything that waits or runs."""
    return [*scheduler._waiting.values(), *scheduler.running.values()]


class Clock:
    """Monotonic seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class MemoryTransport:
    """Where the loop and the test's frontends meet.

    Attributes:
        inbox: What the loop will receive.
        sent: What the loop sent, decoded, in order.
        gone: Peers to whom sending fails.
        waits: How long the loop was ready to sleep.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.inbox: deque[tuple[bytes, bytes]] = deque()
        self.sent: list[tuple[bytes, ToFrontend]] = []
        self.gone: set[bytes] = set()
        self.waits: list[float] = []

    def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if not self.inbox:
            self._clock.now += max(0.0, timeout_s)
        return bool(self.inbox)

    def receive(self) -> tuple[bytes, bytes] | None:
        return self.inbox.popleft() if self.inbox else None

    def send(self, peer: bytes, payload: bytes) -> bool:
        if peer in self.gone:
            return False
        self.sent.append((peer, decode_to_frontend(payload)))
        return True


class ScriptedBackend:
    """Gives every sequence a token a step, counting from 1, until its `max_tokens`.

    Attributes:
        blocks: What its cache holds; tests change it.
        refuse: Called by `add`; may raise.
        on_step: Called by `step`; may raise, or return what `step` shall return.
    """

    def __init__(self, clock: Clock, model: ModelInfo = MODEL) -> None:
        self._clock = clock
        self._model = model
        self.files = ModelFiles("m", {})
        self.running: dict[str, Request] = {}
        self.emitted: dict[str, int] = {}
        self.aborted: list[str] = []
        self.added: list[str] = []
        self.steps = self.follows = 0
        self.blocks: CachedBlocks | None = None
        self.finish: FinishReason = "length"
        self.refuse: Callable[[Request], None] = lambda _request: None
        self.on_step: Callable[[], object] = lambda: NotImplemented

    @property
    def model(self) -> ModelInfo:
        return self._model

    def add(self, request: Request) -> None:
        self.refuse(request)
        assert request.key not in self.running
        self.added.append(request.key)
        self.running[request.key] = request
        self.emitted[request.key] = len(request.continued)

    def abort(self, keys: list[str]) -> None:
        self.aborted += keys
        for key in keys:
            self.running.pop(key, None)

    def has_work(self) -> bool:
        return bool(self.running)

    def step(self):
        self.steps += 1
        self._clock.now += 0.01
        scripted = self.on_step()
        if scripted is not NotImplemented:
            return scripted
        outputs = []
        for key, request in list(self.running.items()):
            self.emitted[key] += 1
            last = self.emitted[key] == request.max_tokens
            if last:
                del self.running[key]
            reason = self.finish if last else None
            told = self._logprobs(request)
            facts = Facts() if last else None
            outputs.append(Output(key, [self.emitted[key]], reason, facts, None, None, *told))
        return outputs

    def _logprobs(self, request: Request):
        """Tell of each token its number, and of each of the prompt its place."""
        options, number = request.options, self.emitted[request.key]
        logprobs = prompt_logprobs = None
        if options.logprobs is not None:
            logprobs = [Logprobs.of((number,), (-float(number),), 1)]
        if options.prompt_logprobs is not None and number == 1:
            places = range(1, len(request.prompt))
            prompt_logprobs = [None, *(Logprobs.of((7,), (-float(place),), 1) for place in places)]
        return logprobs, prompt_logprobs

    def kv_cache_usage(self) -> float:
        return 0.25

    def gpus(self):
        return []

    def counts(self) -> BackendCounts:
        return BackendCounts(preemptions=1, prefix_cache_queries=20, prefix_cache_hits=10)

    def follow_blocks(self) -> CachedBlocks | None:
        self.follows += 1
        return self.blocks

    def prefill_tokens_per_s(self) -> float:
        return 5000.0

    def sleep(self) -> bool:
        return False

    def wake(self) -> None:
        raise AssertionError

    def shutdown(self) -> None:
        self.running.clear()


class Bench:
    """An `EngineLoop` with all that is around it."""

    def __init__(self, **limits: float) -> None:
        settings = {
            "max_num_seqs": 4,
            "kv_cache_tokens": 1000,
            "max_queue_size": 8,
            "max_wait_s": 0.0,
        }
        self.clock = Clock()
        self.transport = MemoryTransport(self.clock)
        self.backend = ScriptedBackend(self.clock)
        self.scheduler = BatchScheduler(Limits(**{**settings, **limits}))
        self.beats: list[float] = []
        self.loop = EngineLoop(
            self.backend,
            self.scheduler,
            self.transport,
            clock=self.clock,
            on_beat=lambda: self.beats.append(self.clock.now),
        )

    def say(self, peer: bytes, *messages: ToEngine | bytes) -> None:
        for message in messages:
            payload = message if isinstance(message, bytes) else encode(message)
            self.transport.inbox.append((peer, payload))

    def welcome(self, *peers: bytes) -> None:
        """Have frontends greeted, and forget what was sent until now."""
        for peer in peers:
            self.say(peer, Hello(PROTOCOL_VERSION, peer.decode()))
        self.turn()
        self.transport.sent.clear()

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn()

    def settle(self) -> None:
        """Turn until nothing runs or waits."""
        for _ in range(10_000):
            if not (self.transport.inbox or self.scheduler.waiting or self.backend.running):
                return
            self.loop.turn()
        message = "the loop never came to rest"
        raise AssertionError(message)

    def heard(self, peer: bytes, kind: type | None = None) -> list[ToFrontend]:
        """Return what a frontend was sent, in order."""
        return [
            message
            for to, message in self.transport.sent
            if to == peer and (kind is None or type(message) is kind)
        ]

    def deltas(self, peer: bytes, number: int) -> list[Delta]:
        """Return a request's deltas."""
        return [d for step in self.heard(peer, Step) for d in deltas_of(step) if d.id == number]

    def failures(self, peer: bytes) -> list[Failure]:
        """Return the failures that a frontend was sent."""
        return [f for message in self.heard(peer, Failures) for f in message.failures]


def generate(number: int, prompt_tokens: int = 5, max_tokens: int | None = 3, **fields) -> Generate:
    """Return a request for a sequence."""
    fields.setdefault("sampling", SamplingParams(max_tokens=max_tokens).over(DEFAULTS))
    return Generate(number, pack_token_ids([7] * prompt_tokens), **fields)
