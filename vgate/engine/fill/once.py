"""Fills an engine before it is ready, and remembers it, so that it costs once."""

import hashlib
import os
import time
from contextlib import suppress

import msgspec

from vgate.config import Config
from vgate.config.runtime import DRY_RUN
from vgate.engine.backends.base import Backend, BackendError
from vgate.engine.fill.filling import Filling, ReportProgress
from vgate.engine.memory import Memory, software
from vgate.log import Log
from vgate.wire.messages import ModelInfo

# The KV cache is what the device has left, which is never quite the same.
_SAME_SIZE = 0.95

log = Log("vgate.engine")


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered, for people too.

    Attributes:
        max_model_len, max_num_seqs, kv_cache_tokens: What was promised.
        longest: The longest prompt that ran.
        most_tokens: The most tokens that the KV cache held at once.
        slowest_step_s: How long a step takes that has most to do, as far as it is known.
        at: Unix time.
    """

    card: str = ""
    model: str = ""
    max_model_len: int = 0
    max_num_seqs: int = 0
    kv_cache_tokens: int = 0
    longest: int = 0
    most_tokens: int = 0
    slowest_step_s: float = 0.0
    seconds: float = 0.0
    whole: bool = True
    at: float = 0.0

    def covers(self, model: ModelInfo) -> bool:
        """Whether a model promises no more."""
        return (
            model.max_model_len <= self.max_model_len
            and model.max_num_seqs <= self.max_num_seqs
            and model.kv_cache_tokens * _SAME_SIZE <= self.kv_cache_tokens
        )

    @property
    def summary(self) -> str:
        """What was filled, for people; "" if that is everything."""
        if self.whole:
            return ""
        return (
            f", tried with {self.longest:,} tokens of context and {self.most_tokens:,} in the KV "
            f"cache only, because all would take longer than supervision.fill_timeout_s"
        )


def fill_once(backend: Backend, memory: Memory, report: ReportProgress) -> Filled:
    """Fill a backend unless that is remembered; return what is known, which may be nothing.

    Raises:
        BackendError: It ran out of memory.
    """
    config, model = memory.config, backend.model
    simulated = model.backend == DRY_RUN
    if config.model.fill == "never" or (config.model.fill == "auto" and simulated):
        return Filled()
    card = memory.learned.card
    path = config.server.state_path / "memory" / f"{_key(card, config, model)}.filled.json"
    if config.model.fill == "auto":
        with suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=Filled)
            if known.covers(model):
                return known
    filled = _fill(backend, memory, report)
    log.info("filled", context=filled.longest, kv_tokens=filled.most_tokens, seconds=filled.seconds)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(filled) + b"\n")
        draft.replace(path)
    except OSError as error:
        log.error("cannot remember it; set server.state_dir", path=path, error=error)
    return filled


def _fill(backend: Backend, memory: Memory, report: ReportProgress) -> Filled:
    config, model, began = memory.config, backend.model, time.monotonic()
    filling = Filling(backend, report, config.supervision.fill_timeout_s)
    try:
        filling.run()
    except Exception as error:
        if not memory.is_lack(error):
            raise
        raise BackendError(_sentence(config, model, filling.held()), lacks="memory") from error
    return Filled(
        card=memory.learned.card,
        model=config.model.model_id,
        max_model_len=model.max_model_len,
        max_num_seqs=model.max_num_seqs,
        kv_cache_tokens=model.kv_cache_tokens,
        longest=filling.longest,
        most_tokens=filling.tokens,
        slowest_step_s=round(filling.slowest_step_s, 3),
        seconds=round(time.monotonic() - began, 3),
        whole=filling.whole,
        at=time.time(),
    )


def _sentence(config: Config, model: ModelInfo, held: int) -> str:
    """Return what happened, with numbers, and what helps."""
    return (
        f"it ran out of memory with {held:,} tokens in the KV cache, of {model.kv_cache_tokens:,} "
        f"that it would promise (context {model.max_model_len:,}, batch {model.max_num_seqs}): "
        "lower model.max_model_len, batch.max_num_seqs or model.gpu_memory_utilization, or serve a "
        f"smaller model than {config.model.model_id}."
    )


def _key(card: str, config: Config, model: ModelInfo) -> str:
    """Return a name for what the memory that is needed depends on, beside the sizes."""
    settings = config.model
    facts = (
        *(card, software()),
        *(settings.model_id, model.fingerprint, settings.quantization, settings.dtype),
        *(settings.tensor_parallel_size, settings.pipeline_parallel_size, model.task),
        [adapter.path for adapter in settings.lora_adapters],
        *(settings.engine_args, settings.card_settings, config.supervision.fill_timeout_s),
    )
    return hashlib.blake2b(msgspec.json.encode(facts, order="sorted"), digest_size=8).hexdigest()
