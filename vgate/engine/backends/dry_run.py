"""The dry-run backend: continuous batching on a simulated GPU, for CI, demos and benchmarks.

It simulates what a scheduler and a client can notice: a step costs time, prefill costs time per
token and is chunked, the KV cache is finite and overfilling it preempts. It answers with the last
message of the conversation, so an answer depends on nothing but the prompt and anybody can check
it: the text once, or over and over while `ignore_eos` or `min_tokens` ask for more.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from vgate.config import Config
from vgate.engine.backends.base import BackendCounts, BackendError, Output, ReportPhase
from vgate.engine.request import Request
from vgate.wire import dry_run_vocabulary
from vgate.wire.messages import FinishReason, ModelInfo
from vgate.wire.sampling import SamplingParams

# Prompt tokens that one step may prefill, as vLLM's max_num_batched_tokens.
_MAX_PREFILL_TOKENS = 2048
# Stretches of plain text before the generation prompt among which the last message is: a template
# may put its own text, such as a line break, between two messages.
_RECENT_STRETCHES = 3


class _Sequence:
    """A running sequence: what it will say, and how far it is."""

    __slots__ = ("emitted", "min_tokens", "position", "prefilled", "reply", "request", "stops")

    def __init__(self, request: Request, reply: list[int], stops: frozenset[int]) -> None:
        self.request = request
        self.min_tokens = (request.sampling and request.sampling.min_tokens) or 0
        self.reply = reply
        self.stops = stops
        self.prefilled = 0
        self.emitted = 0
        self.position = 0

    @property
    def prefill_tokens(self) -> int:
        """Tokens to prefill: the prompt, and after a preemption what was generated too."""
        return len(self.request.prompt) + self.emitted

    @property
    def kv_tokens(self) -> int:
        """Tokens in the KV cache."""
        return max(self.prefilled, len(self.request.prompt) + self.emitted)

    def next(self) -> tuple[int, FinishReason | None]:
        """Emit the next token; below `min_tokens` a stop token is passed over, as in vLLM."""
        too_early = self.emitted < self.min_tokens
        token = self._next_of_reply()
        for _ in self.reply:
            if not (too_early and token in self.stops):
                break
            token = self._next_of_reply()
        self.emitted += 1
        if token in self.stops and not too_early:
            return token, "stop"
        return token, "length" if self.emitted >= self.request.max_tokens else None

    def _next_of_reply(self) -> int:
        token = self.reply[self.position % len(self.reply)]
        self.position += 1
        return token


class DryRunBackend:
    """See the module. Timing and capacity come from the configuration's `dry_run` section."""

    def __init__(self, config: Config, report_phase: ReportPhase) -> None:
        report_phase("starting the dry-run engine")
        self._step_s = config.dry_run.step_ms / 1000
        self._prefill_s = 1 / config.dry_run.prefill_tokens_per_s
        self._capacity = config.dry_run.kv_cache_tokens
        self._special, self._eos = _vocabulary(config.model.model_id)
        self._running: dict[str, _Sequence] = {}
        self._preempted: deque[_Sequence] = deque()
        self._preemptions = 0
        self._model = ModelInfo(
            names=config.model.served_names,
            directory=local_model(config.model.model_id),
            max_model_len=config.model.max_model_len,
            max_num_seqs=config.batch.max_batch_size,
            kv_cache_tokens=self._capacity,
            created=int(time.time()),
            backend="dry_run",
        )

    @property
    def model(self) -> ModelInfo:
        """The model it pretends to be."""
        return self._model

    def add(self, request: Request) -> None:
        """Start a sequence."""
        sampling = request.sampling or SamplingParams()
        reply = self._reply_to(request.prompt, endless=bool(sampling.ignore_eos))
        self._running[request.key] = _Sequence(request, reply, self._stops(sampling))

    def abort(self, keys: list[str]) -> None:
        """Stop sequences."""
        for key in keys:
            self._running.pop(key, None)
        gone = set(keys)
        self._preempted = deque(s for s in self._preempted if s.request.key not in gone)

    def has_work(self) -> bool:
        """Say whether a sequence runs."""
        return bool(self._running or self._preempted)

    def step(self) -> list[Output]:
        """Simulate one step: prefill what is new within the budget, then decode all the rest."""
        self._resume_preempted()
        self._preempt_overfull()
        prefilled = self._prefill()
        time.sleep(self._step_s + prefilled * self._prefill_s)
        return list(self._decode())

    def kv_cache_usage(self) -> float:
        """Return the share of the simulated KV cache in use."""
        return min(1.0, self._kv_tokens() / self._capacity)

    def counts(self) -> BackendCounts:
        """Return how often the simulated KV cache overflowed; it keeps no prefixes."""
        return BackendCounts(preemptions=self._preemptions)

    def shutdown(self) -> None:
        """Drop everything."""
        self._running.clear()
        self._preempted.clear()

    def _prefill(self) -> int:
        budget = _MAX_PREFILL_TOKENS
        for sequence in self._running.values():
            missing = max(0, sequence.prefill_tokens - sequence.prefilled)
            if missing and budget:
                chunk = min(missing, budget)
                sequence.prefilled += chunk
                budget -= chunk
        return _MAX_PREFILL_TOKENS - budget

    def _decode(self) -> Iterator[Output]:
        for key, sequence in list(self._running.items()):
            if sequence.prefilled < sequence.prefill_tokens:
                continue
            token, finish_reason = sequence.next()
            # The new token's keys and values are computed by the next step.
            sequence.prefilled += 1
            if finish_reason:
                del self._running[key]
            yield Output(key, [token], finish_reason, 0)

    def _kv_tokens(self) -> int:
        return sum(sequence.kv_tokens for sequence in self._running.values())

    def _preempt_overfull(self) -> None:
        """Put the newest sequences back until the rest fits, as vLLM does; one always runs."""
        while len(self._running) > 1 and self._kv_tokens() > self._capacity:
            _, sequence = self._running.popitem()
            sequence.prefilled = 0
            self._preempted.appendleft(sequence)
            self._preemptions += 1

    def _resume_preempted(self) -> None:
        while self._preempted:
            first = self._preempted[0]
            if self._running and self._kv_tokens() + first.prefill_tokens > self._capacity:
                return
            self._running[first.request.key] = self._preempted.popleft()

    def _stops(self, sampling: SamplingParams) -> frozenset[int]:
        stops = frozenset(sampling.stop_token_ids or ())
        return stops if sampling.ignore_eos else stops | self._eos

    def _reply_to(self, prompt: list[int], *, endless: bool) -> list[int]:
        """Return the tokens to repeat: the last message, then the end of the answer."""
        borders = [-1, *(i for i, t in enumerate(prompt) if t in self._special), len(prompt)]
        stretches = [prompt[a + 1 : b] for a, b in pairwise(borders)]
        before_generation_prompt = stretches[-1 - _RECENT_STRETCHES : -1] or stretches
        echo = max(before_generation_prompt, key=len) or prompt
        if endless:
            return list(echo)
        return [*echo, min(self._eos)]


def local_model(model_id: str) -> str | None:
    """Return the directory of a model whose tokenizer is on this machine, or None."""
    path = Path(model_id)
    return str(path.resolve()) if (path / "tokenizer.json").is_file() else None


def _vocabulary(model_id: str) -> tuple[frozenset[int], frozenset[int]]:
    """Return the special tokens and those that end an answer.

    Raises:
        BackendError: The model's files can't be read.
    """
    directory = local_model(model_id)
    if directory is None:
        markers = frozenset(dry_run_vocabulary.MARKERS.values())
        return markers, frozenset({dry_run_vocabulary.END})
    try:
        added = json.loads(Path(directory, "tokenizer.json").read_bytes())["added_tokens"]
        special = frozenset(token["id"] for token in added if token["special"])
        eos = _eos_token_ids(Path(directory)) or special
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"cannot read the tokenizer in {directory}: {error}"
        raise BackendError(message) from error
    return special, eos


def _eos_token_ids(directory: Path) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            eos = json.loads(path.read_bytes()).get("eos_token_id")
            if eos is not None:
                return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()
