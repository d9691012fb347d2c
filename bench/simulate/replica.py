"""A replica of a model in simulated time: continuous batching, and a KV cache of blocks."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec

from bench.simulate.trace import Turn
from vgate.frontend.routing import Ticket
from vgate.wire.kv_blocks import block_keys, block_seed
from vgate.wire.messages import Status
from vgate.wire.stats import Load

BLOCK_TOKENS = 64
NO_SEED = block_seed("", "")
# As the engine's, in seconds.
REPORT_S = 0.02


class Device(NamedTuple):
    """What a replica can do.

    Attributes:
        base_s, sequence_s, prompt_token_s: Parts of a step's time, the engine's own included.
    """

    base_s: float = 0.0085
    sequence_s: float = 20e-6
    prompt_token_s: float = 30e-6
    step_tokens: int = 2048
    max_num_seqs: int = 64
    kv_cache_tokens: int = 400_000


class Request(msgspec.Struct, eq=False):
    """A turn in a replica.

    Attributes:
        due: When it came, in seconds.
        keys: Of the prompt's blocks.
        output: Tokens that are to be generated: after a death those that are missing.
        left: Tokens of its prompt that are to be computed, since it has started.
        ttft_s: Seconds from `due` to the first token.
    """

    turn: Turn
    due: float
    keys: list[int]
    ticket: Ticket | None
    output: int
    left: int = 0
    ttft_s: float = 0.0


class Replica:
    """One replica.

    Args:
        device: What it can do.
        after: Schedules an event after some seconds.
        report: Tells what its cache has got and lost.
        started, ended: Called with a request's first token and at its end.
    """

    def __init__(
        self,
        device: Device,
        after: Callable[[float, Callable[[], None]], None],
        report: Callable[[list[int], list[int]], None],
        started: Callable[[Request], None],
        ended: Callable[[Request], None],
    ) -> None:
        self._device, self._after, self._report = device, after, report
        self._on_start, self._on_end = started, ended
        self._blocks: dict[int, None] = {}
        # By key, whether it was stored since the last report, or removed.
        self._changes: dict[int, bool] = {}
        self._waiting: deque[Request] = deque()
        self._starting: deque[Request] = deque()
        # By the step at whose end they are complete.
        self._ends: list[tuple[int, int, Request]] = []
        self._steps = self._count = self._held = self._life = 0
        self._busy = False
        self.cached = self.computed = self.generated = 0

    def submit(self, request: Request) -> None:
        """Take a request."""
        self._waiting.append(request)
        if not self._busy:
            self._busy = True
            self._step()

    def die(self) -> list[Request]:
        """Lose everything; return the requests."""
        for end, _, request in self._ends:
            request.output = end - self._steps
        lost = [*self._waiting, *self._starting, *(request for _, _, request in self._ends)]
        self._waiting.clear()
        self._starting.clear()
        self._ends.clear()
        self._blocks, self._changes = {}, {}
        self._held, self._busy = 0, False
        self._life += 1
        return lost

    def status(self) -> Status:
        """Return the heartbeat."""
        prefill = sum(request.left for request in self._starting)
        prefill += sum(self._uncached(request) for request in self._waiting)
        decode = sum(end - self._steps for end, _, _ in self._ends)
        decode += sum(request.output for request in (*self._starting, *self._waiting))
        running = len(self._starting) + len(self._ends)
        load = Load(prefill, decode, 1 / self._device.prompt_token_s)
        return Status(running, len(self._waiting), 0.0, load=load)

    def _uncached(self, request: Request) -> int:
        blocks, tokens = self._blocks, request.turn.tokens
        keys = request.keys
        found = next((n for n, key in enumerate(keys) if key not in blocks), len(keys))
        return tokens - min(found * BLOCK_TOKENS, tokens - 1)

    def _admit(self) -> None:
        device = self._device
        while self._waiting and len(self._starting) + len(self._ends) < device.max_num_seqs:
            request = self._waiting[0]
            size = request.turn.tokens + request.turn.output
            if self._held and self._held + size > device.kv_cache_tokens:
                return
            self._waiting.popleft()
            self._held += size
            request.left = self._uncached(request)
            self.computed += request.left
            self.cached += request.turn.tokens - request.left
            self._starting.append(request)

    def _step(self) -> None:
        """Begin a step: one token of each sequence, and parts of prompts, one after the other."""
        self._admit()
        decoding = len(self._ends)
        if not self._starting and not decoding:
            self._busy = False
            return
        device, budget = self._device, self._device.step_tokens
        for request in self._starting:
            part = min(budget, request.left)
            request.left -= part
            budget -= part
            if not budget:
                break
        seconds = device.base_s + decoding * device.sequence_s
        seconds += (device.step_tokens - budget) * device.prompt_token_s
        life = self._life
        self._after(seconds, lambda: self._end_step(life))

    def _end_step(self, life: int) -> None:
        if life != self._life:
            return
        self._steps += 1
        self.generated += len(self._ends)
        while self._starting and not self._starting[0].left:
            request = self._starting.popleft()
            self.generated += 1
            self._count += 1
            end = self._steps + request.output - 1
            heappush(self._ends, (end, self._count, request))
            self._store(request.keys)
            self._on_start(request)
        while self._ends and self._ends[0][0] <= self._steps:
            request = heappop(self._ends)[2]
            turn, keys = request.turn, request.keys
            self._held -= turn.tokens + turn.output
            rest = turn.prompt[len(keys) * BLOCK_TOKENS * 4 :] + turn.answer()[:-4]
            parent = keys[-1] if keys else NO_SEED
            self._store([*keys, *block_keys(rest, BLOCK_TOKENS, parent)])
            self._on_end(request)
        self._step()

    def _store(self, keys: list[int]) -> None:
        """Keep blocks, the first ones for the longest time, and drop the oldest ones."""
        blocks, idle = self._blocks, not self._changes
        for key in reversed(keys):
            if key in blocks:
                del blocks[key]
            else:
                self._change(key, stored=True)
            blocks[key] = None
        while len(blocks) * BLOCK_TOKENS > self._device.kv_cache_tokens:
            oldest = next(iter(blocks))
            del blocks[oldest]
            self._change(oldest, stored=False)
        if idle and self._changes:
            life = self._life
            self._after(REPORT_S, lambda: self._tell(life))

    def _change(self, key: int, *, stored: bool) -> None:
        if self._changes.get(key, stored) is not stored:
            del self._changes[key]
        else:
            self._changes[key] = stored

    def _tell(self, life: int) -> None:
        if life == self._life and self._changes:
            changes, self._changes = self._changes, {}
            stored = [key for key, new in changes.items() if new]
            self._report(stored, [key for key, new in changes.items() if not new])
