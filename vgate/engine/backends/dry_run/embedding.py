"""The dry-run embedding backend: unit vectors in which similar texts are near.

A text's vector is the sum of a pseudo-random sign vector for each of its distinct runs of tokens,
so two texts are as near as they have runs in common. It needs no model, and gives the same text the
same vector everywhere.
"""

from __future__ import annotations

import hashlib
import math
import time
from array import array

from vgate.config import Config
from vgate.engine.backends.base import BackendCounts, Output, ReportPhase
from vgate.engine.backends.dry_run.text import Vocabulary
from vgate.engine.request import Request
from vgate.engine.served_files import describe, files_of, fingerprint
from vgate.errors import InvalidValueError
from vgate.wire.messages import ModelInfo

# blake2b gives up to 512 bits; one is the sign of one dimension.
DIMENSIONS = 384
_DIGEST_BYTES = DIMENSIONS // 8
_RUN_LENGTHS = (3, 4)


class DryRunEmbeddingBackend:
    """See the module. Timing comes from the configuration's `dry_run` section."""

    def __init__(self, config: Config, report_phase: ReportPhase) -> None:
        report_phase("starting the dry-run engine")
        self._step_s = config.dry_run.step_ms / 1000
        self._prefill_s = 1 / config.dry_run.prefill_tokens_per_s
        self._waiting: dict[str, Request] = {}
        vocabulary = Vocabulary(config.model.model_id)
        self.files = files_of(vocabulary.directory)
        self._model = ModelInfo(
            names=config.model.served_names,
            files=describe(self.files),
            max_model_len=config.model.max_model_len,
            max_num_seqs=config.batch.max_batch_size,
            kv_cache_tokens=config.dry_run.kv_cache_tokens,
            created=int(time.time()),
            backend="dry_run",
            task="embed",
            vocab_size=vocabulary.size,
            fingerprint=fingerprint(vocabulary.directory),
        )

    @property
    def model(self) -> ModelInfo:
        """The model it pretends to be."""
        return self._model

    def add(self, request: Request) -> None:
        """Take a text.

        Raises:
            InvalidValueError: More dimensions are asked for than there are.
        """
        if (request.dimensions or 1) > DIMENSIONS:
            message = f"`dimensions` must be at most {DIMENSIONS}, got {request.dimensions}"
            raise InvalidValueError(message, param="dimensions")
        self._waiting[request.key] = request

    def abort(self, keys: list[str]) -> None:
        """Drop texts."""
        for key in keys:
            self._waiting.pop(key, None)

    def has_work(self) -> bool:
        """Say whether a text waits."""
        return bool(self._waiting)

    def step(self) -> list[Output]:
        """Embed all that waits."""
        batch, self._waiting = self._waiting, {}
        tokens = sum(len(request.prompt) for request in batch.values())
        time.sleep(self._step_s + tokens * self._prefill_s)
        return [
            Output(key, [], None, 0, _embed(request.prompt, request.dimensions or DIMENSIONS))
            for key, request in batch.items()
        ]

    def kv_cache_usage(self) -> float:
        """Return 0: nothing is kept."""
        return 0.0

    def counts(self) -> BackendCounts:
        """Return zeros: nothing is preempted or found again."""
        return BackendCounts()

    def shutdown(self) -> None:
        """Drop everything."""
        self._waiting.clear()


def _embed(prompt: list[int], dimensions: int) -> bytes:
    """Return the vector of a text: float32, little-endian, of length 1."""
    runs = {
        tuple(prompt[start : start + size])
        for size in _RUN_LENGTHS
        for start in range(max(1, len(prompt) - size + 1))
    }
    # Each run's sign vector is the bits of its digest: count the ones in each dimension.
    ones = [0] * DIMENSIONS
    for run in runs:
        packed = array("I", run).tobytes()
        digest = hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest()
        bits = int.from_bytes(digest, "big")
        for dimension in range(DIMENSIONS):
            ones[dimension] += bits >> dimension & 1
    values = [2 * count - len(runs) for count in ones[:dimensions]]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    vector = array("f", [value / norm for value in values])
    return vector.tobytes()
