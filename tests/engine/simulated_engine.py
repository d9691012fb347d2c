"""A model of vLLM's KV cache and of a device's pace, on a clock of its own.

What it keeps of vLLM 0.32 (`v1/core/sched/scheduler.py`): running sequences come first; for a block
that is not there the newest sequence is preempted; what waits starts in order, in steps without a
preemption, if all its tokens so far fit; freed blocks stay in the prefix cache until they are used
again, a sequence's last ones first.
"""

from collections import deque

import msgspec

from vgate.engine.request import Request

BEAT_S = 0.25
# Of a step: vLLM's max_num_batched_tokens.
_STEP_TOKENS = 2048


class Device(msgspec.Struct, frozen=True):
    """How long a step takes, and what the KV cache holds."""

    base_s: float = 6e-3
    per_sequence_s: float = 20e-6
    per_prompt_token_s: float = 30e-6
    kv_blocks: int = 512
    block_tokens: int = 16


class _Sequence:
    def __init__(self, request: Request, length: int) -> None:
        self.request = request
        self.length = length
        self.computed = 0
        # Numbers and versions of its blocks; those that it had when it was preempted, too.
        self.blocks: list[tuple[int, int]] = []

    @property
    def tokens(self) -> int:
        return len(self.request.prompt) + self.request.generated_tokens


class SimulatedEngine:
    """Runs requests whose lengths of output are given.

    Attributes:
        preemptions: How many there were.
        preempted: Keys of the requests that were preempted.
        tokens: How many were generated.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.now = 0.0
        self.running: list[_Sequence] = []
        self.waiting: deque[_Sequence] = deque()
        self.preemptions = self.tokens = 0
        self.preempted: set[str] = set()
        self._versions = [0] * device.kv_blocks
        self._free: dict[int, None] = dict.fromkeys(range(device.kv_blocks))

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self.running or self.waiting)

    def add(self, request: Request, length: int) -> None:
        """Start a sequence."""
        self.waiting.append(_Sequence(request, length))

    def step(self) -> list[Request]:
        """Run a step; return the requests that are complete."""
        budget, stuck = _STEP_TOKENS, False
        scheduled: list[tuple[_Sequence, int]] = []
        for sequence in list(self.running):
            if sequence not in self.running:
                break
            count = min(sequence.tokens - sequence.computed, budget)
            while not self._allocate(sequence, sequence.computed + count):
                stuck = True
                if self._preempt() is sequence:
                    count = 0
                    break
            if count:
                scheduled.append((sequence, count))
                budget -= count
        while self.waiting and budget and not stuck:
            sequence = self.waiting[0]
            kept = self._still_cached(sequence)
            needed = -(-sequence.tokens // self.device.block_tokens) - len(kept)
            if needed > len(self._free) - sum(number in self._free for number, _ in kept):
                break
            self.waiting.popleft()
            self.running.append(sequence)
            for number, _ in kept:
                del self._free[number]
            sequence.blocks = kept
            sequence.computed = min(len(kept) * self.device.block_tokens, sequence.tokens - 1)
            count = min(sequence.tokens - sequence.computed, budget)
            self._allocate(sequence, sequence.tokens)
            scheduled.append((sequence, count))
            budget -= count
        return self._run(scheduled)

    def _run(self, scheduled: list[tuple[_Sequence, int]]) -> list[Request]:
        device, finished = self.device, []
        prefilled = sum(count - 1 for _, count in scheduled)
        self.now += (
            device.base_s
            + device.per_sequence_s * len(scheduled)
            + device.per_prompt_token_s * prefilled
        )
        for sequence, count in scheduled:
            sequence.computed += count
            if sequence.computed < sequence.tokens:
                continue
            sequence.request.generated_tokens += 1
            self.tokens += 1
            if sequence.request.generated_tokens >= sequence.length:
                self.running.remove(sequence)
                self._release(sequence)
                finished.append(sequence.request)
        return finished

    def _allocate(self, sequence: _Sequence, tokens: int) -> bool:
        needed = -(-tokens // self.device.block_tokens) - len(sequence.blocks)
        if needed > len(self._free):
            return False
        for _ in range(needed):
            number = next(iter(self._free))
            del self._free[number]
            self._versions[number] += 1
            sequence.blocks.append((number, self._versions[number]))
        return True

    def _preempt(self) -> _Sequence:
        sequence = self.running.pop()
        self.waiting.appendleft(sequence)
        self.preemptions += 1
        self.preempted.add(sequence.request.key)
        self._release(sequence)
        return sequence

    def _release(self, sequence: _Sequence) -> None:
        self._free.update(dict.fromkeys(number for number, _ in reversed(sequence.blocks)))

    def _still_cached(self, sequence: _Sequence) -> list[tuple[int, int]]:
        """Return the first blocks of a preempted sequence that nobody has used since."""
        kept = []
        for number, version in sequence.blocks:
            if self._versions[number] != version:
                break
            kept.append((number, version))
        # The last one was not full.
        return kept[: sequence.tokens // self.device.block_tokens]
