"""An engine that ran out of memory comes back with less of it in use, and remembers that.

What ran out once would run out again: the same requests come back. A reduction halves the batch
and the tokens of a step, and takes a tenth of the memory's share, which leaves it to activations.
It is kept for the card, the model and the settings that matter, so the next start begins there.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from vgate.config import Config, Runtime
from vgate.log import Log

MOST_REDUCTIONS = 2

_GPUS = Path("/proc/driver/nvidia/gpus")
# vLLM's own, of which a step takes at most so many where prompts are read in chunks.
_STEP_TOKENS = 2048
_KEPT_SHARE = 0.9
_KILLED = "the kernel killed it because memory was out"

log = Log("vgate.engine")


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered, for people too.

    Attributes:
        most: Reductions beyond this don't start.
        at: Unix time of the last change.
    """

    card: str
    model: str
    reductions: int = 0
    most: int = MOST_REDUCTIONS
    reason: str = ""
    at: float = 0.0


class Memory:
    """What an engine has learned of its memory. Made at the engine's start, before it loads.

    Attributes:
        config: The engine's configuration, reduced.
        learned: What is remembered.
    """

    def __init__(self, runtime: Runtime, engine: int) -> None:
        config = runtime.engine_config(engine)
        self.learned = Learned(card=_card(), model=config.model.model_id)
        self._path = _state_dir(config) / "memory" / f"{_key(self.learned.card, config)}.json"
        with suppress(OSError, msgspec.DecodeError):
            self.learned = msgspec.json.decode(self._path.read_bytes(), type=Learned)
        # Left by an engine that was killed: what the kernel's counter said when it began.
        self._life = runtime.directory("engines") / str(engine)
        kills = _kills()
        with suppress(OSError, ValueError):
            if int(self._life.read_text()) < kills:
                self.ran_out(_KILLED)
        with suppress(OSError):
            self._life.write_text(str(kills))
        self.config = _reduced(config, self.learned.reductions)

    @property
    def summary(self) -> str:
        """What was reduced and why, for people; "" if nothing was."""
        learned = self.learned
        if not learned.reductions:
            return ""
        times = "once" if learned.reductions == 1 else "twice"
        return f", reduced {times} because it ran out of memory ({self._path} remembers it)"

    def ran_out(self, reason: str) -> None:
        """Remember that the engine ran out of memory, so that it comes back with less."""
        reductions = min(self.learned.reductions + 1, self.learned.most)
        log.error("out of memory", reason=reason, reductions=reductions)
        self._learn(reductions, self.learned.most, reason)

    def take_back(self) -> bool:
        """Take a reduction back with which the engine does not start; False if there is none."""
        reductions = self.learned.reductions - 1
        if reductions < 0:
            return False
        log.error("the reduced engine does not start", reductions=reductions)
        self._learn(reductions, reductions, self.learned.reason)
        return True

    def end(self) -> None:
        """Note that the engine ends by itself."""
        self._life.unlink(missing_ok=True)

    def _learn(self, reductions: int, most: int, reason: str) -> None:
        self.learned = msgspec.structs.replace(
            self.learned, reductions=reductions, most=most, reason=reason, at=time.time()
        )
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(self.learned) + b"\n")
            draft.replace(self._path)
        except OSError as error:
            log.error("cannot remember it; set server.state_dir", path=self._path, error=error)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory: Python's, torch's or a worker's."""
    while error is not None:
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _reduced(config: Config, times: int) -> Config:
    if not times:
        return config
    model, share = config.model, _KEPT_SHARE**times
    size = max(1, config.batch.sequences >> times)
    arguments = dict(model.engine_args)
    if (kv_cache := arguments.get("kv_cache_memory_bytes")) is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_cache * share)
    chunked = _GPUS.is_dir() and arguments.get("enable_chunked_prefill", True)
    if chunked and model.task == "generate":
        tokens = arguments.get("max_num_batched_tokens", _STEP_TOKENS) >> times
        arguments["max_num_batched_tokens"] = max(size, tokens)
    model = msgspec.structs.replace(
        model,
        gpu_memory_utilization=model.gpu_memory_utilization * share,
        engine_args=arguments,
    )
    batch = msgspec.structs.replace(config.batch, max_num_seqs=size)
    return msgspec.structs.replace(config, model=model, batch=batch)


def _state_dir(config: Config) -> Path:
    if config.server.state_dir:
        return Path(config.server.state_dir)
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home, "vgate")


def _key(card: str, config: Config) -> str:
    """Return a name for what a reduction depends on: with other settings it is learned anew."""
    model = config.model
    settings = (
        *(card, model.model_id, model.revision, model.quantization, model.dtype),
        *(model.max_model_len, model.gpu_memory_utilization, config.batch.max_num_seqs),
        model.engine_args,
    )
    return hashlib.blake2b(msgspec.json.encode(settings, order="sorted"), digest_size=8).hexdigest()


def _card() -> str:
    """Return the names of the GPUs; "cpu" without an NVIDIA GPU."""
    names = []
    for path in sorted(_GPUS.glob("*/information")):
        with suppress(OSError):
            fields = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
            names.append(fields.get("Model", "").strip())
    return ", ".join(names) or "cpu"


def _kills() -> int:
    """Return how many processes the kernel has killed for lack of memory (cgroups(7), proc(5))."""
    found = 0
    with suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        found += _count(Path("/sys/fs/cgroup", group, "memory.events"))
    with suppress(OSError, ValueError):
        found += _count(Path("/proc/vmstat"))
    return found


def _count(path: Path) -> int:
    lines = path.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
