"""The dry-run embedding backend: unit vectors that are close for similar texts.

A text's vector is the sum of one pseudo-random sign vector for each of its distinct token n-grams,
so the more n-grams two texts share, the closer they are. A text has the same vector everywhere.
"""

from __future__ import annotations

import hashlib
import math
import time
from array import array

from vgate.config import Config
from vgate.engine.backends.base import BackendCounts, Output, ReportPhase
from vgate.engine.backends.dry_run.vocabulary import Vocabulary
from vgate.engine.request import Request, RequestError
from vgate.engine.served_files import describe_model

# One bit of a blake2b digest (at most 512 bits) is the sign in one dimension.
DIMENSIONS = 384
_DIGEST_BYTES = DIMENSIONS // 8
_NGRAM_LENGTHS = (3, 4)


class DryRunEmbeddingBackend:
    """Simulates an embedding model. Timing is the configuration's `dry_run`."""

    def __init__(self, config: Config, report_phase: ReportPhase) -> None:
        report_phase("starting the dry-run engine")
        self._step_s = config.dry_run.step_ms / 1000
        self._prefill_s = 1 / config.dry_run.prefill_tokens_per_s
        self._waiting: dict[str, Request] = {}
        vocabulary = Vocabulary(config.model.model_id)
        self.model, self.files = describe_model(
            config,
            vocabulary.directory,
            max_model_len=config.model.max_model_len,
            max_num_seqs=config.batch.max_batch_size,
            kv_cache_tokens=config.dry_run.kv_cache_tokens,
            backend="dry_run",
            vocab_size=vocabulary.size,
        )

    def add(self, request: Request) -> None:
        """Queue a text for the next step, unless it asks for more dimensions than there are."""
        if (request.dimensions or 1) > DIMENSIONS:
            reason = f"must be at most {DIMENSIONS}, got {request.dimensions}"
            raise RequestError("invalid_value", reason, "dimensions")
        self._waiting[request.key] = request

    def abort(self, keys: list[str]) -> None:
        """Drop texts."""
        for key in keys:
            self._waiting.pop(key, None)

    def has_work(self) -> bool:
        """Whether a text is queued."""
        return bool(self._waiting)

    def step(self) -> list[Output]:
        """Embed all queued texts."""
        batch, self._waiting = self._waiting, {}
        tokens = sum(len(request.prompt) for request in batch.values())
        time.sleep(self._step_s + tokens * self._prefill_s)
        return [
            Output(key, [], None, 0, _embed(request.prompt, request.dimensions or DIMENSIONS))
            for key, request in batch.items()
        ]

    def kv_cache_usage(self) -> float:
        """Return 0: there is no KV cache."""
        return 0.0

    def counts(self) -> BackendCounts:
        """Return zeros: there are no preemptions and no prefix cache."""
        return BackendCounts()

    def shutdown(self) -> None:
        """Drop all texts."""
        self._waiting.clear()


def _embed(prompt: list[int], dimensions: int) -> bytes:
    """Return the vector of a text: float32, little-endian, of length 1."""
    ngrams = {
        tuple(prompt[start : start + size])
        for size in _NGRAM_LENGTHS
        for start in range(max(1, len(prompt) - size + 1))
    }
    # An n-gram's sign vector is the bits of its digest: count the ones in each dimension.
    ones = [0] * DIMENSIONS
    for ngram in ngrams:
        packed = array("I", ngram).tobytes()
        digest = hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest()
        bits = int.from_bytes(digest, "big")
        for dimension in range(DIMENSIONS):
            ones[dimension] += bits >> dimension & 1
    values = [2 * count - len(ngrams) for count in ones[:dimensions]]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    vector = array("f", [value / norm for value in values])
    return vector.tobytes()
